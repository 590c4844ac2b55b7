"""The CPU backend: the same solutions for correctness alone, on the small sibling of the definition.

Triton kernels run under Triton's interpreter and `sgl_kernel` is a plain-PyTorch stand-in. Each solution runs in a
process of its own; what it prints there never reaches the results.
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import cells as cell_module
from harness.cells import not_run_after
from harness.dataset import stage
from harness.environment import build_variables, find_nvcc
from harness.manifest import Variant
from harness.paths import PROJECT
from harness.plan import Plan
from harness.process import Finished, follow
from harness.progress import Progress
from harness.record import Cell, Status
from harness.resume import Kept

STAND_INS = Path(__file__).resolve().parent / "cpu_kernels"
START_S = 120
CANNOT_WRITE = "cannot write the results: "
"""How the worker's last line begins when it exits with EX_IOERR."""


class CpuBackend:
    """One run without a GPU; `cells` is complete for what has run so far at any moment."""

    def __init__(self, plan: Plan, progress: Progress):
        self.plan = plan
        self.progress = progress
        self.cells: dict[tuple[str, str], Cell] = {}
        self.traces: dict[tuple[str, str], dict[str, Any]] = {}  # flashinfer-bench's; none here
        self.commands: list[list[str]] = []
        self.warnings: list[str] = []
        self.on_cell: Callable[[], None] = lambda: None

    def take_up(self, kept: Kept) -> None:
        """Leave out what a former run finished."""
        self.cells.update(kept.cells)

    def run(self) -> Iterable[None]:
        """Fill the grid; yields after each solution so that the record can be saved."""
        compiled = [v for v in self.plan.variants if v.is_compiled_once]
        if compiled and find_nvcc() is None:
            self.progress.note("nvcc is not here: CUDA solutions are not even compiled")
            compiled = []
        # The worker builds what it cannot run, and reports it SKIPPED or as a COMPILE_ERROR.
        for variant in [*self.plan.runnable, *compiled]:
            known = {workload for solution, workload in self.cells if solution == variant.name}
            left = [w.id for w in self.plan.workloads if w.id not in known]
            while left:
                tried = self._worker(variant, left)
                # Whatever came back is done; if the process died or hung, that is the doing of the first that is left.
                left = [uuid for uuid in left if (variant.name, uuid) not in self.cells]
                if tried.timed_out:
                    self._give_up(variant.name, left)
                    break
            yield

    def clock_warnings(self) -> list[str]:
        """None: nothing is timed here."""
        return []

    def _give_up(self, solution: str, left: list[str]) -> None:
        """Leave out what a solution that hung has not done: each further workload would cost the same."""
        hung = (c for c in self.cells.values() if c.solution == solution)
        cause = next(c for c in hung if c.status is Status.TIMEOUT)
        for uuid in left:
            self._add(not_run_after(cause, uuid))

    def _add(self, cell: Cell) -> None:
        if (cell.solution, cell.workload) not in self.cells:
            self.cells[cell.solution, cell.workload] = cell
            self.progress.cell(cell)
            self.on_cell()

    def _worker(self, variant: Variant, left: list[str]) -> Finished:
        """One process over the workloads that are left; if it does not finish, the first of them gets the blame."""
        plan = self.plan
        root = stage(plan.dataset, [variant], left, plan.scratch / variant.name)
        results = plan.scratch / f"{variant.name}.jsonl"
        results.unlink(missing_ok=True)
        command = [sys.executable, "-m", "harness.cpu_worker"]
        command += [
            str(root),
            plan.definition.name,
            variant.name,
            plan.profile.model_dump_json(),
            str(results),
        ]

        def progress() -> int | None:
            """Cells so far; None until the worker is ready, whose limit per workload counts from then."""
            if not results.exists():
                return None
            cells = _read(results)
            for cell in cells:
                self._add(cell)
            return len(cells)

        finished = follow(
            command,
            timeout_s=START_S + plan.profile.timeout * len(left),
            idle_s=plan.profile.timeout,
            progress=progress,
            env=cpu_environment(variant, plan),
            cwd=PROJECT,
            log=plan.scratch / f"{variant.name}.log",
        )
        progress()
        last = finished.tail.rpartition("\n")[2]
        if finished.returncode == os.EX_IOERR and last.startswith(CANNOT_WRITE):
            # A full disk is not the solution's doing.
            raise OSError(errno.EIO, last.removeprefix(CANNOT_WRITE), str(results))
        lost = [uuid for uuid in left if (variant.name, uuid) not in self.cells]
        if lost:
            self._add(_death(variant.name, lost[0], finished, plan.profile.timeout))
        return finished


def cpu_environment(variant: Variant, plan: Plan) -> dict[str, str]:
    """Environment of every process that runs a solution without a GPU."""
    path = [str(STAND_INS), str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in path if p),
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
        **build_variables(_target(variant), plan.paths.kernel_cache),
    }


def _target(variant: Variant) -> str | None:
    """Compute capability to compile for, where no GPU says it: the first that the solution names."""
    return next(iter(variant.manifest.requires.compute_capabilities), None)


def _death(solution: str, workload: str, finished: Finished, timeout: int) -> Cell:
    """The cell of a solution that took its process down."""
    if finished.timed_out:
        status, reason = Status.TIMEOUT, f"no result within {timeout} s"
    elif finished.returncode and finished.returncode < 0:
        status, reason = (
            Status.RUNTIME_ERROR,
            f"its process was killed by signal {-finished.returncode}",
        )
    else:
        status, reason = (
            Status.RUNTIME_ERROR,
            f"its process exited with {finished.returncode} and no result",
        )
    return Cell(
        solution=solution,
        workload=workload,
        status=status,
        reason=reason,
        log_tail=cell_module.tail(finished.tail) or None,
        origin="cpu",
    )


def _read(path: Path) -> list[Cell]:
    """The cells that the worker has written; a line cut short by its death is not one."""
    if not path.exists():
        return []
    cells = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            cells.append(Cell.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            continue
    return cells
