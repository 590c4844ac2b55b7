"""Command lines as people would type them."""

import re
import shlex
from collections.abc import Iterable

WIDTH = 100


def quoted(word: str) -> str:
    """One word for bash.

    Unlike shlex.quote, a whole word that is a variable stays one ("$FIB_DATASET_PATH"), and
    KEY=several words is written KEY="several words".
    """
    if re.fullmatch(r"\$[A-Za-z_]\w*", word):
        return f'"{word}"'
    assignment = re.fullmatch(r"([A-Za-z_]\w*)=([\w ./:,*-]* [\w ./:,*-]*)", word)
    if assignment:
        return f'{assignment[1]}="{assignment[2]}"'
    return shlex.quote(word)


def line(words: Iterable[str]) -> str:
    """The words as one line of bash."""
    return " ".join(quoted(word) for word in words)


def wrapped(words: Iterable[str], width: int = WIDTH) -> str:
    """The words as bash, broken before options where a line would pass `width`; an option keeps its
    values."""
    groups: list[str] = []
    for word in words:
        if not groups or word.startswith("--"):
            groups.append(quoted(word))
        else:
            groups[-1] += f" {quoted(word)}"
    lines = [groups[0]] if groups else []
    for group in groups[1:]:
        if len(lines[-1]) + 1 + len(group) <= width:
            lines[-1] += f" {group}"
        else:
            lines.append(f"  {group}")
    return " \\\n".join(lines)
