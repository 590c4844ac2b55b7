"""Numbers of a record that no measurement can have given, such as an infinite latency."""

import math
from typing import Any

from harness.record import Ceilings, Cell, RunRecord

LIMIT = 1e9
"""Latencies in ms, speedups and rates are under this and over 1 / this: 12 days, or a thousandth of a nanosecond."""
CELL_NUMBERS = ("latency_ms", "reference_latency_ms", "speedup")


def credible(record: RunRecord) -> tuple[RunRecord, tuple[str, ...]]:
    """The record with absurd numbers taken as absent, and one sentence for each.

    Whatever shows records goes through this, so that one bad number spoils neither a report nor a table of many records.
    """
    notes: list[str] = []
    cells = []
    tokens = {workload.id: workload.seq_len for workload in record.workloads}
    for cell in record.cells:
        changes = _absent(cell)
        cells.append(cell.model_copy(update=changes) if changes else cell)
        at = f"{cell.solution} on {cell.workload} (T={tokens.get(cell.workload, '?')})"
        notes += [
            f"The record's {key} of {at} cannot have been measured and is taken as absent."
            for key in changes
        ]
    ceilings = record.ceilings
    if ceilings is not None and not _rates(ceilings):
        notes.append("The record's ceilings cannot have been measured and are taken as absent.")
        ceilings = None
    if not notes:
        return record, ()
    return record.model_copy(update={"cells": cells, "ceilings": ceilings}), tuple(notes)


def _absent(cell: Cell) -> dict[str, Any]:
    """The keys of a cell whose values cannot be, with what takes their place."""
    changes: dict[str, Any] = {
        key: None
        for key in CELL_NUMBERS
        if (value := getattr(cell, key)) is not None and not _possible(value)
    }
    if not all(map(_possible, cell.repeat_latencies_ms)):
        changes["repeat_latencies_ms"] = []
    ratio = cell.matched_ratio
    # Not a number is what flashinfer-bench gives for some outputs, and reports say so.
    if ratio is not None and not math.isnan(ratio) and not 0 <= ratio <= 1:
        changes["matched_ratio"] = None
    return changes


def _possible(value: float) -> bool:
    return math.isfinite(value) and 1 / LIMIT < value < LIMIT


def _rates(ceilings: Ceilings) -> bool:
    return _possible(ceilings.read_gb_per_s) and _possible(ceilings.fp8_tflop_per_s)
