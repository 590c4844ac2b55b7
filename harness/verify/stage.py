"""Verification as a stage of a run: all runnable solutions of a plan, and what follows for their cells."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from harness.cells import in_grid_order
from harness.manifest import Variant
from harness.plan import Plan
from harness.record import (
    Ceilings,
    Cell,
    DefinitionInfo,
    Status,
    Verification,
    VerificationInfo,
    WorkloadInfo,
)
from harness.report.numbers import matched
from harness.roofline import floor_of

if TYPE_CHECKING:
    from harness.verify.judge import Judge

FLOOR_SHARE = 0.85
"""Least latency as a share of the floor: the floor rests on one measurement of the ceilings."""
TOOLS = ("memcheck", "racecheck", "initcheck")
"""Tools of compute-sanitizer."""


def open_judge(
    plan: Plan,
    info: VerificationInfo,
    say: Callable[[str], None],
    tools: tuple[str, ...] = (),
    only: Iterable[str] = (),
) -> "Judge | None":
    """What verifies the plan's solutions; None where the form is none or all have their verdicts.

    Raises:
        HarnessError: nonsense would pass under the plan's profile, a check is not known, or there is no way to run here.
    """
    if info.form == "none" or not unverified(plan, info):
        return None
    from harness.verify.judge import Judge  # here: it imports torch, which takes seconds

    if info.seed is None:
        info.seed = secrets.randbits(48)
    return Judge(plan, info.form, info.seed, say, tools, frozenset(only))


def unverified(plan: Plan, info: VerificationInfo) -> list[Variant]:
    """The runnable solutions that `info` has no verdict on."""
    return [variant for variant in plan.runnable if info.of(variant.name) is None]


def verify_all(
    judge: "Judge",
    plan: Plan,
    info: VerificationInfo,
    ceilings: Ceilings | None,
    compiled: Callable[[], None],
) -> Iterator[None]:
    """Verify every runnable solution that `info` has no verdict on yet; yields after each.

    Args:
        compiled: see `Judge.compiled`.
    """
    judge.ceilings, judge.compiled = ceilings, compiled
    left = unverified(plan, info)
    try:
        for index, variant in enumerate(left):
            info.solutions.append(judge.verify(variant, left[index + 1 :]))
            yield
    finally:
        judge.close()


class VerifiedOnly:
    """A backend that times nothing: its grid comes from the accuracy report."""

    def __init__(self, plan: Plan, info: VerificationInfo):
        self._plan, self._info = plan, info
        self.traces: dict[tuple[str, str], dict[str, Any]] = {}
        self.commands: list[list[str]] = []
        self.warnings: list[str] = []
        self.on_cell: Callable[[], None] = lambda: None

    @property
    def cells(self) -> dict[tuple[str, str], Cell]:
        known = {verification.solution for verification in self._info.solutions}
        found = accuracy_cells(self._plan, self._info)
        return {(c.solution, c.workload): c for c in found if c.solution in known}

    def run(self) -> Iterable[None]:
        return ()

    def clock_warnings(self) -> list[str]:
        """None: nothing is timed here."""
        return []


def refusals(info: VerificationInfo | None) -> dict[str, Cell]:
    """Of each solution that gets no speed, its cell of any workload. One that cannot be built is left to say so itself, and gets none
    if it then can (`without_unexamined`)."""
    return {
        verification.solution: _refusal(verification)
        for verification in (info.solutions if info else [])
        if verification.failed and not verification.unbuilt
    }


def _refusal(verification: Verification) -> Cell:
    """The first fault, and which others there are. Without an output there was nothing to verify: the cell says what
    happened, as it would without verification."""
    first, *more = verification.failed
    also = ", ".join(check.name for check in more)
    if first.status:
        reason = f"{first.detail} (in the check {first.name}{'; also: ' + also if also else ''})"
    else:
        reason = f"failed verification: {first.name}: {first.detail}" + (
            f" (also: {also})" if also else ""
        )
    return Cell(
        solution=verification.solution,
        workload="",
        status=first.status or Status.VERIFY_FAILED,
        reason=reason,
        log_tail=first.log_tail,
        origin="harness",
    )


def refused_cells(refused: dict[str, Cell], workloads: list[WorkloadInfo]) -> list[Cell]:
    """The cells of solutions that failed."""
    return [
        cell.model_copy(update={"workload": workload.id})
        for cell in refused.values()
        for workload in workloads
    ]


def without_unexamined(cells: list[Cell], info: VerificationInfo) -> list[Cell]:
    """The cells, those that passed of a solution that could not be built for verification turned into failures without a speed."""
    unbuilt = {v.solution: v.failed[0].detail for v in info.solutions if v.unbuilt}

    def judged(cell: Cell) -> Cell:
        if cell.solution not in unbuilt or cell.status is not Status.PASSED:
            return cell
        return _without_speed(
            cell, f"not verified: it was built here, but not there: {unbuilt[cell.solution]}"
        )

    return [judged(cell) for cell in cells]


def without_impossible(
    cells: list[Cell],
    workloads: list[WorkloadInfo],
    definition: DefinitionInfo,
    ceilings: Ceilings | None,
) -> list[Cell]:
    """The cells, those faster than FLOOR_SHARE of the physical floor turned into failures without a speed."""
    floors = {w.id: floor_of(definition, w, ceilings) for w in workloads}

    def judged(cell: Cell) -> Cell:
        floor = floors.get(cell.workload)
        if floor is None or cell.latency_ms is None or cell.status is not Status.PASSED:
            return cell
        us = cell.latency_ms * 1e3
        if us >= FLOOR_SHARE * floor.us:
            return cell
        why = f"latency_floor: {us:.1f} us were timed, and this GPU needs {floor.us:.1f} us for the bytes and operations"
        return _without_speed(cell, why)

    return [judged(cell) for cell in cells]


def _without_speed(cell: Cell, why: str) -> Cell:
    nothing = dict.fromkeys(("latency_ms", "reference_latency_ms", "speedup"))
    return cell.model_copy(
        update={"status": Status.VERIFY_FAILED, "reason": why, "repeat_latencies_ms": [], **nothing}
    )


def accuracy_cells(plan: Plan, info: VerificationInfo) -> list[Cell]:
    """The grid of a run that verified and timed nothing: PASSED with a matched ratio, or why not."""
    p = plan.profile
    cells = refused_cells(refusals(info), plan.workloads)
    refused = {cell.solution for cell in cells}
    for verification in info.solutions:
        if verification.solution in refused:
            continue
        found = {entry.workload: entry for entry in verification.accuracy}
        for workload in plan.workloads:
            entry = found.get(workload.id)
            cell = Cell(
                solution=verification.solution,
                workload=workload.id,
                status=Status.SKIPPED,
                reason="not part of this run's accuracy report",
                origin="harness",
            )
            if verification.unbuilt:
                detail = verification.failed[0].detail
                cell.status, cell.reason = Status.COMPILE_ERROR, detail
            elif entry is not None:
                ok = entry.matched_ratio >= p.required_matched_ratio
                cell.status = Status.PASSED if ok else Status.INCORRECT_NUMERICAL
                cell.reason = None if ok else f"matched ratio {matched(entry.matched_ratio)}"
                cell.matched_ratio = entry.matched_ratio
                cell.max_abs_error, cell.max_rel_error = entry.max_abs_error, entry.max_rel_error
            cells.append(cell)
    return in_grid_order(cells, [v.name for v in plan.variants], [w.id for w in plan.workloads])
