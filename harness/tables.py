"""A table as data, and the three ways out: terminal, CSV, JSON."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table as RichTable

ABSENT = "-"


@dataclass(frozen=True)
class Column:
    """One column."""

    key: str
    """Name in CSV and JSON."""
    title: str
    write: Callable[[Any], str] = str
    """How a value is shown to people; CSV and JSON have it as it is."""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of plain values: str, int, float, bool or None for a value that is not there."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def records(self) -> list[dict[str, Any]]:
        """One dict a row; JSON has no inf and nan, so those are strings."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, map(_plain, row), strict=True)) for row in self.rows]

    def csv(self) -> str:
        """Comma-separated with a header; a value that is not there is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(column.key for column in self.columns)
        writer.writerows(["" if value is None else value for value in row] for row in self.rows)
        return out.getvalue()

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable()
        for column in self.columns:
            table.add_column(escape(column.title), justify="right" if column.numeric else "left")
        for row in self.rows:
            table.add_row(*(escape(_shown(c, v)) for c, v in zip(self.columns, row, strict=True)))
        return table

    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows as people read them."""
        return tuple(
            tuple(_shown(c, v) for c, v in zip(self.columns, row, strict=True)) for row in self.rows
        )


def columns(*specs: tuple[str, str] | tuple[str, str, Callable[[Any], str]]) -> tuple[Column, ...]:
    """Columns from (key, title) for text and (key, title, write) for numbers."""
    return tuple(
        Column(spec[0], spec[1], spec[2], numeric=True) if len(spec) == 3 else Column(*spec)
        for spec in specs
    )


def table(name: str, header: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """A table whose rows have as many values as the header has columns."""
    return Table(name, tuple(header), tuple(tuple(row) for row in rows))


def _shown(column: Column, value: Any) -> str:
    return ABSENT if value is None or value == "" else column.write(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
