"""A new solution folder that starts as a copy of one that works."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from harness.atomic import write_atomically
from harness.errors import HarnessError
from harness.manifest import ALL, MANIFEST_NAME, Variant, load_variant, survey

CPP_SUFFIXES = (".cu", ".cuh", ".cpp", ".cc", ".h", ".hpp")
NAMESPACE = r"(?m)^namespace (\w+) *\{"


def new_solution(solutions: Path, name: str, source: Variant) -> Variant:
    """Copy manifest and sources of `source` to `solutions`/`name`, under names of its own.

    Args:
        name: folder, label and FlashInfer-Bench name of the new solution.

    Raises:
        HarnessError: no such name is possible, or it is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise HarnessError(
            f"NAME: '{name}' is no solution name; use lower-case letters, digits and '_', a letter first"
        )
    if name == ALL:
        raise HarnessError(f"NAME: '{ALL}' means every solution; choose another")
    folder = solutions / name
    if folder.exists():
        raise HarnessError(f"{folder}: exists; choose another name")
    for variant in survey(solutions).variants:
        if name in variant.names:
            raise HarnessError(f"NAME: '{name}' is a name of {variant.folder}; choose another")
    text = (source.folder / MANIFEST_NAME).read_text(encoding="utf-8")
    changes = {
        "name": name,
        **({"label": name} if source.manifest.label else {}),
        "summary": f"Started from {source.label}; what differs goes here",
        "notes": f"Started as a copy of {source.label}.",
    }
    for key, value in changes.items():
        text = replace_key(text, key, value)
    try:
        for path, content in _in_namespace(source.sources, name).items():
            write_atomically(folder / path, content)
        write_atomically(folder / MANIFEST_NAME, text)
        return load_variant(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a folder would break every later command
        raise


def _in_namespace(sources: Mapping[str, str], name: str) -> dict[str, str]:
    """The same sources, C++ in a namespace `name`: what libraries in one process define under one name, they share."""
    cpp = [path for path in sources if Path(path).suffix in CPP_SUFFIXES]
    spaces = {space for path in cpp for space in re.findall(NAMESPACE, sources[path])}
    renamed = dict(sources)
    for path in cpp:
        for space in spaces:
            either = rf"\b(namespace ){space}\b|\b{space}(?=::)"
            renamed[path] = re.sub(either, lambda m: (m[1] or "") + name, renamed[path])
    return renamed


def replace_key(text: str, key: str, value: str) -> str:
    """`text`, a manifest, with `key` set to `value` and everything else, comments included, as it was."""
    line = yaml.safe_dump({key: value}, width=10_000, allow_unicode=True).strip()
    # A value may go on over indented and empty lines.
    pattern = rf"(?m)^{re.escape(key)}:.*(?:\n(?:[ \t]+.*|(?=\n[ \t])))*"
    changed, number = re.subn(pattern, lambda _: line, text, count=1)
    return changed if number else f"{text.rstrip()}\n{line}\n"
