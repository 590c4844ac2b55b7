"""The table at the end of a run."""

import io

from rich.console import Console

from harness.paths import PROJECT
from harness.record import Status, load_record
from harness.summary import summary_table

RECORD = load_record(PROJECT / "results" / "2026-02-02-b200")


def shown(record) -> dict[str, list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=160).print(summary_table(record).rich(160))
    rows = [line.strip("│ ").split("│") for line in stream.getvalue().splitlines() if "│" in line]
    return {cells[0].strip(): [c.strip() for c in cells[1:]] for cells in rows}


def test_speeds() -> None:
    assert shown(RECORD)["triton_v2"] == ["19/19", "29.48x", "32.38x", "4.83x", "4.67x", "37.58x"]


def test_cells_that_lack_are_said() -> None:
    first = RECORD.cells[0].model_copy(update={"status": Status.TIMEOUT, "speedup": None})
    skipped = RECORD.solutions[3].name
    cells = [
        c.model_copy(update={"status": Status.SKIPPED, "speedup": None})
        if c.solution == skipped
        else c
        for c in [first, *RECORD.cells[1:]]
    ]
    rows = shown(RECORD.model_copy(update={"cells": cells}))
    assert rows["sglang_v1"][0] == "18/19" and "(18 of 19)" in rows["sglang_v1"][1]
    assert rows["triton_v2"] == ["SKIPPED", "-", "-", "-", "-", "-"]


def test_what_an_interrupted_run_did_not_reach() -> None:
    cells = [c for c in RECORD.cells if c.solution != RECORD.solutions[3].name][:-1]
    rows = shown(RECORD.model_copy(update={"cells": cells, "partial": True}))
    assert rows["triton_v2"][0] == "INCOMPLETE 0/19" and rows["triton_v1"][0] == "INCOMPLETE 18/19"
    assert rows["sglang_v1"][0] == "19/19"


def test_without_speeds() -> None:
    cells = [
        c.model_copy(update={"speedup": None, "latency_ms": None, "matched_ratio": 0.97})
        for c in RECORD.cells
    ]
    rows = shown(RECORD.model_copy(update={"cells": cells, "backend": "cpu"}))
    assert rows["triton_v2"] == ["PASS 19/19", "0.9700"]


def test_names_are_whole_in_a_narrow_terminal() -> None:
    """At 60 columns they were cut to the same beginning."""
    long = {"label": "a_solution_with_a_long_name_1"}
    solutions = [RECORD.solutions[0].model_copy(update=long), *RECORD.solutions[1:]]
    stream = io.StringIO()
    narrow = summary_table(RECORD.model_copy(update={"solutions": solutions})).rich(60)
    Console(file=stream, width=60).print(narrow, crop=False)
    assert long["label"] in stream.getvalue() and "…" not in stream.getvalue()
