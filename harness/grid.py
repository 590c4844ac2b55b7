"""The grid of a record: every (solution, workload) that was asked for, whether it is there or not."""

from harness.record import Cell, RunRecord, Status
from harness.stats import by_tokens

Grid = dict[tuple[str, str], Cell]
"""Cells by name of the solution and id of the workload."""


def grid_of(record: RunRecord) -> Grid:
    """Every cell that was asked for; one that the record lacks is MISSING."""
    there: Grid = {}
    for cell in record.cells:
        there.setdefault((cell.solution, cell.workload), cell)
    return {
        (solution.name, workload.id): there.get((solution.name, workload.id))
        or Cell(
            solution=solution.name,
            workload=workload.id,
            status=Status.MISSING,
            reason="the record has no such cell",
            origin="harness",
        )
        for solution in record.solutions
        for workload in by_tokens(record)
    }
