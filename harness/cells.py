"""From flashinfer-bench's traces and log lines to cells with reasons."""

import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.paths import PROJECT
from harness.profile import Profile
from harness.record import Cell, Status
from harness.report.numbers import matched

TAIL_LINES = 40
TAIL_CHARS = 4000

# What flashinfer-bench 0.1.2 says when it lost a cell for a reason that lies with another solution or with itself: the
# persistent runner forgets the baseline after a worker's death, the isolated one gives a start only 30 s.
COLLATERAL = (
    "Baseline handle not found",
    "Failed to rebuild baseline",
    "Worker restart failed",
    "Connection is closed or invalid",
    "Worker failed to start within 30 seconds",
)
_RESULT_LINE = re.compile(
    r"Solution '(?P<solution>[^']+)' for workload (?P<workload>\S+): "
    r"(?:PASSED with (?P<speedup>[\d.]+)x speedup|(?P<status>[A-Z_]+))"
)
_EXCEPTION_LINE = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)$")


def cell_from_trace(trace: dict[str, Any], profile: Profile) -> Cell:
    """One line of a trace file, in FlashInfer-Bench's format, as a cell."""
    evaluation = trace["evaluation"]
    status = Status(evaluation["status"])
    correctness = evaluation.get("correctness") or {}
    performance = evaluation.get("performance") or {}
    log = evaluation.get("log") or ""
    cell = Cell(
        solution=trace["solution"],
        workload=trace["workload"]["uuid"],
        status=status,
        latency_ms=performance.get("latency_ms"),
        reference_latency_ms=performance.get("reference_latency_ms"),
        speedup=performance.get("speedup_factor"),
        max_abs_error=_number(correctness.get("max_absolute_error")),
        max_rel_error=_number(correctness.get("max_relative_error")),
        matched_ratio=_number((correctness.get("extra") or {}).get("matched_ratio")),
    )
    if status is Status.PASSED:
        return cell
    return cell.model_copy(
        update={"reason": reason_for(cell, log, profile), "log_tail": tail(log) or None}
    )


def cell_from_line(line: str) -> Cell | None:
    """A result line of flashinfer-bench's log, or None for any other line.

    Such a cell has no latency and a speedup of two decimals; it serves a run that is interrupted before
    flashinfer-bench writes its traces.
    """
    found = _RESULT_LINE.search(line)
    if not found:
        return None
    solution, workload = found["solution"], found["workload"]
    if found["speedup"]:
        return Cell(
            solution=solution,
            workload=workload,
            status=Status.PASSED,
            speedup=float(found["speedup"]),
            origin="log",
        )
    status = (
        Status(found["status"]) if found["status"] in Status.__members__ else Status.RUNTIME_ERROR
    )
    reason = "interrupted before flashinfer-bench wrote the reason"
    return Cell(solution=solution, workload=workload, status=status, reason=reason, origin="log")


def is_collateral(cell: Cell) -> bool:
    """Whether the cell was lost for a reason that is not the solution's own, so that it deserves another try."""
    if cell.status is Status.MISSING:
        return True
    log = f"{cell.reason}\n{cell.log_tail}"
    return cell.status in (Status.RUNTIME_ERROR, Status.TIMEOUT) and any(
        sign in log for sign in COLLATERAL
    )


def reason_for(cell: Cell, log: str, profile: Profile) -> str:
    """Why a cell did not pass, in one line; flashinfer-bench itself says it for exceptions only."""
    if cell.status is Status.INCORRECT_NUMERICAL:
        error = cell.max_abs_error
        if error is not None and not math.isfinite(error):
            return f"the output holds {'NaN' if math.isnan(error) else 'infinite'} values"
        ratio = "unknown" if cell.matched_ratio is None else matched(cell.matched_ratio)
        return (
            f"matched ratio {ratio} is below {profile.required_matched_ratio} "
            f"(rtol {profile.rtol}, atol {profile.atol})"
        )
    if cell.status is Status.INCORRECT_SHAPE:
        return "the output's shape is not the definition's"
    if cell.status is Status.INCORRECT_DTYPE:
        return "the output's dtype is not the definition's"
    if cell.status is Status.TIMEOUT and not any(sign in log for sign in COLLATERAL):
        return f"no result within {profile.timeout} s"
    for line in reversed(log.splitlines()):
        if found := _EXCEPTION_LINE.match(line):
            return anonymous(found[1])[:300]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return (
        anonymous(lines[-1])[:300]
        if lines
        else f"flashinfer-bench reported {cell.status.value} without a log"
    )


def tail(log: str) -> str:
    """The last lines of a log, without this machine's folders."""
    return anonymous("\n".join(log.strip().splitlines()[-TAIL_LINES:]))[-TAIL_CHARS:]


def anonymous(text: str) -> str:
    """Replace this machine's folders by what they are: records travel."""
    for path, name in ((str(PROJECT), "."), (sys.prefix, "<python>"), (str(Path.home()), "~")):
        if path != os.sep:
            text = text.replace(path, name)
    return text


def in_grid_order(cells: Iterable[Cell], solutions: list[str], workloads: list[str]) -> list[Cell]:
    """The whole grid, workload by workload, with a MISSING cell wherever none came back."""
    by_key = {(c.solution, c.workload): c for c in cells}
    return [
        by_key.get((s, w)) or missing(s, w, "no result came back for this cell")
        for w in workloads
        for s in solutions
    ]


def missing(solution: str, workload: str, reason: str) -> Cell:
    """A cell without a result."""
    return Cell(
        solution=solution, workload=workload, status=Status.MISSING, reason=reason, origin="harness"
    )


def not_run_after(cause: Cell, workload: str) -> Cell:
    """The cell of a workload that was not tried: the solution hung, and each further try would cost the limit again."""
    reason = f"not run after the timeout on {cause.workload}"
    return missing(cause.solution, workload, reason)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
