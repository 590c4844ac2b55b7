"""A table as data, and the three ways out: terminal, CSV, JSON."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.markup import escape
from rich.table import Table as RichTable

from harness.table_layout import ColumnText, Layout, broken_title, fit

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
    spare: int = 0
    """0: people always see it; others are left out from the highest on where a terminal is too narrow."""


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

    def layout(self, width: int) -> Layout:
        """What of it fits into lines of `width` characters."""
        shown = self.shown()
        return fit(
            [
                ColumnText(
                    title=column.title,
                    cells=tuple(row[i] for row in shown),
                    firm=column.numeric or i == 0,
                    spare=column.spare,
                    empty=all(row[i] == ABSENT for row in shown),
                )
                for i, column in enumerate(self.columns)
            ],
            width,
        )

    def rich(self, width: int = 10_000) -> RichTable:
        """For a terminal whose lines have `width` characters; a line is longer only where nothing else can give."""
        layout = self.layout(width)
        table = RichTable(width=layout.total, padding=(0, layout.padding))
        for i, size in zip(layout.kept, layout.widths, strict=True):
            column = self.columns[i]
            title = escape(broken_title(column.title, size))
            justify = "right" if column.numeric else "left"
            table.add_column(title, justify=justify, width=size, overflow="fold")
        for row in self.shown():
            table.add_row(*(escape(row[i]) for i in layout.kept))
        return table

    def left_out(self, width: int) -> tuple[str, ...]:
        """Titles of the columns with values that lines of `width` characters have no room for."""
        kept = self.layout(width).kept
        return tuple(
            column.title
            for i, column in enumerate(self.columns)
            if i not in kept and any(row[i] is not None for row in self.rows)
        )

    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows as people read them."""
        return tuple(
            tuple(_shown(c, v) for c, v in zip(self.columns, row, strict=True)) for row in self.rows
        )


def columns(
    *specs: Column | tuple[str, str] | tuple[str, str, Callable[[Any], str]],
) -> tuple[Column, ...]:
    """Columns from (key, title) for text, (key, title, write) for numbers, and any as they are."""
    return tuple(
        spec
        if isinstance(spec, Column)
        else Column(spec[0], spec[1], spec[2], numeric=True)
        if len(spec) == 3
        else Column(*spec)
        for spec in specs
    )


def yes_or_no(value: bool) -> str:
    """A bool as people read it; programs get it as it is."""
    return "yes" if value else "no"


def spared(header: Sequence[Column], *keys: str) -> tuple[Column, ...]:
    """The columns, of which those named may be left out where there is no room, the first of them first."""
    ranks = {key: len(keys) - i for i, key in enumerate(keys)}
    return tuple(replace(column, spare=ranks.get(column.key, 0)) for column in header)


def table(name: str, header: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """A table whose rows have as many values as the header has columns."""
    return Table(name, tuple(header), tuple(tuple(row) for row in rows))


def _shown(column: Column, value: Any) -> str:
    return ABSENT if value is None or value == "" else column.write(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
