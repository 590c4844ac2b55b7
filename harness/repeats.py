"""From the repetitions of a run to one cell for each solution and workload."""

from statistics import median

from harness.cells import is_collateral
from harness.record import Cell, Status
from harness.report.numbers import worst_error

Cells = dict[tuple[str, str], Cell]
"""By solution and workload."""


def combined(rounds: list[Cells]) -> Cells:
    """The cells of all repetitions as one each: medians where every repetition passed.

    A cell that failed once has failed. A repetition that was lost through no fault of its solution does not count.
    """
    first, *others = rounds
    return {
        key: _combined(cell, [r[key] for r in others if key in r]) for key, cell in first.items()
    }


def _combined(first: Cell, others: list[Cell]) -> Cell:
    if first.status is not Status.PASSED:
        return first
    for number, cell in enumerate(others, start=2):
        if cell.status is not Status.PASSED and not is_collateral(cell):
            reason = f"passed before, but not in repetition {number}: {cell.reason}"
            return cell.model_copy(update={"reason": reason})
    timed = [c for c in [first, *others] if c.latency_ms and c.reference_latency_ms]
    if len(timed) < 2:
        return first
    latencies = [c.latency_ms for c in timed if c.latency_ms]
    latency = median(latencies)
    reference = median(c.reference_latency_ms for c in timed if c.reference_latency_ms)
    return first.model_copy(
        update={
            "latency_ms": latency,
            "reference_latency_ms": reference,
            "speedup": reference / latency,
            "repeat_latencies_ms": latencies,
            "max_abs_error": worst_error(c.max_abs_error for c in timed),
            "max_rel_error": worst_error(c.max_rel_error for c in timed),
            "matched_ratio": min(
                (c.matched_ratio for c in timed if c.matched_ratio is not None), default=None
            ),
        }
    )
