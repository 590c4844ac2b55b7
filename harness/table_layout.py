"""How a table goes into a terminal: what is folded, what is left out, and what is never cut."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

FOLDED = 12
"""Text is folded to no less than its longest word, or than this."""
MARGIN = 1
"""The frame at the left; each column has one more at its right."""


@dataclass(frozen=True)
class ColumnText:
    """One column as it is shown."""

    title: str
    cells: tuple[str, ...]
    firm: bool
    """Never folded: the first column, by which rows are told apart, and numbers."""
    spare: int
    """0: never left out; others go from the highest on where a line would not fit."""
    empty: bool
    """No row has a value."""


@dataclass(frozen=True)
class Layout:
    """What fits."""

    kept: tuple[int, ...]
    """Indices of the columns that are shown."""
    widths: tuple[int, ...]
    """Of the kept columns, without padding."""
    padding: int
    """Spaces at both sides of each value."""

    @property
    def total(self) -> int:
        """Width of a whole line; more than was asked for where nothing else can give."""
        return _total(self.widths, self.padding)


def fit(columns: Sequence[ColumnText], width: int) -> Layout:
    """The layout that loses least within `width` characters.

    Text folds first, then padding goes, then columns without a value, then those that are marked as spare. Numbers and
    the first column are always whole, so that a line may run over in the end.
    """
    kept = tuple(range(len(columns)))
    droppable = sorted(
        (i for i in kept if columns[i].empty or columns[i].spare),
        key=lambda i: (not columns[i].empty, -columns[i].spare, -i),
    )
    for number in range(len(droppable) + 1):
        left_out = set(droppable[:number])
        kept = tuple(i for i in range(len(columns)) if i not in left_out)
        for padding in (1, 0):
            least = [_least(columns[i]) for i in kept]
            if _total(least, padding) <= width:
                # What is left goes to folded text first, and then to headings that stand in lines.
                widths = _grown(least, [_longest_line(columns[i]) for i in kept], width, padding)
                titles = [cell_len(columns[i].title) for i in kept]
                return Layout(kept, _grown(widths, titles, width, padding), padding)
    return Layout(kept, tuple(_least(columns[i]) for i in kept), 0)


def broken_title(title: str, width: int) -> str:
    """A heading in lines of at most `width`, broken at spaces and after hyphens where there are any."""
    lines = [""]
    for piece in _pieces(title):
        if cell_len(f"{lines[-1]}{piece}".rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return "\n".join(line.strip() for line in lines if line.strip())


def _pieces(title: str) -> list[str]:
    return re.findall(r"[^\s-]*-\s*|[^\s-]+\s*", title)


def _least(column: ColumnText) -> int:
    heading = max((cell_len(piece.strip()) for piece in _pieces(column.title)), default=0)
    if column.firm:
        return max([heading, *map(cell_len, column.cells)])
    words = [cell_len(word) for cell in column.cells for word in cell.split()]
    return max(heading, min(max(words, default=0), FOLDED))


def _longest_line(column: ColumnText) -> int:
    return max((cell_len(line) for cell in column.cells for line in cell.splitlines()), default=0)


def _grown(
    least: Sequence[int], wanted: Sequence[int], width: int, padding: int
) -> tuple[int, ...]:
    """The widths, with what is left of the line given to the narrowest that want more."""
    widths = list(least)
    for _ in range(width - _total(least, padding)):
        short = [i for i in range(len(widths)) if widths[i] < wanted[i]]
        if not short:
            break
        widths[min(short, key=lambda i: widths[i])] += 1
    return tuple(widths)


def _total(widths: Sequence[int], padding: int) -> int:
    return MARGIN + sum(width + 2 * padding + MARGIN for width in widths)
