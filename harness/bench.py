"""The GPU backend: drives the real `flashinfer-bench run` and accounts for every cell of the grid."""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import cells as cell_module
from harness.atomic import write_atomically
from harness.cells import cell_from_line, cell_from_trace, is_collateral, missing, not_run_after
from harness.clocks import ClockWatch
from harness.dataset import stage
from harness.environment import VISIBLE, build_variables, capture, gpu_state
from harness.errors import HarnessError
from harness.kernel_profile import ProfileRecord
from harness.lock import drop_abandoned
from harness.paths import PROJECT, shown
from harness.plan import Plan
from harness.process import Background, Finished, follow
from harness.progress import Progress
from harness.record import PROFILE_NAME, Ceilings, Cell, Status, WorkloadInfo
from harness.repeats import combined
from harness.resume import Kept

# Traces are written only when a call of flashinfer-bench ends, and a start costs 6 to 12 s on an H200 host. Six
# workloads a call keep the starts under a tenth of a full run and lose at most six workloads' latencies to a crash. The
# first call has one workload: what cannot compile or hangs shows there, at the least cost.
BATCH = 6
START_S = 180  # imports, one worker per GPU
REFERENCE_S = 600  # the reference on one workload, all trials
CEILINGS_S = 180
COMPILE_S = 120  # each, where one is compiled at a time
POLL_S = 0.1
DONE = "done"  # a file that `harness.prebuild` leaves in its staged root


class GpuBackend:
    """One run on one GPU; `cells` and `commands` are complete for what has run so far at any moment."""

    def __init__(self, plan: Plan, progress: Progress):
        self.plan = plan
        self.progress = progress
        self._rounds: list[dict[tuple[str, str], Cell]] = [{}]
        self.traces: dict[tuple[str, str, int], dict[str, Any]] = {}
        """By solution, workload and repetition."""
        self.commands: list[list[str]] = []
        self.warnings: list[str] = []
        self.on_cell: Callable[[], None] = lambda: None  # nothing to save before traces are written
        self._kept: dict[tuple[str, str], Cell] = {}
        self._env = gpu_environment(plan)
        self._given_up: dict[str, Cell] = {}
        self._clocks = ClockWatch(plan.gpu.index) if plan.gpu else None

    @property
    def cells(self) -> dict[tuple[str, str], Cell]:
        """What is known of each cell, over all repetitions so far."""
        return {**combined(self._rounds), **self._kept}

    def take_up(self, kept: Kept) -> None:
        """Leave out what a former run finished, with all its repetitions."""
        self._kept = dict(kept.cells)
        self.traces.update(kept.traces)
        self.commands += kept.record.benchmark_commands

    def clock_warnings(self) -> list[str]:
        """Why clocks were held down during the run, a sentence each."""
        return self._clocks.warnings() if self._clocks else []

    @property
    def _round(self) -> dict[tuple[str, str], Cell]:
        """The cells of the repetition that is under way."""
        return self._rounds[-1]

    def run(self) -> Iterable[None]:
        """Fill the grid; yields after each call of flashinfer-bench so that the record can be saved."""
        yield from self._first()
        for number in range(1, self.plan.repeats):
            yield from self._repeat(number)

    def _first(self) -> Iterable[None]:
        workloads = self.plan.workloads
        batches = [workloads[:1]] + [
            workloads[i : i + BATCH] for i in range(1, len(workloads), BATCH)
        ]
        for number, batch in enumerate(batches):
            names = [v.name for v in self.plan.runnable if v.name not in self._given_up]
            for part, (missing_for, those) in enumerate(whole_grids(batch, names, self.cells)):
                self._call(f"batch-{number}-{part}", missing_for, those)
            self._charge_given_up(batch)
            yield
        yield from self._retry()

    def _repeat(self, number: int) -> Iterable[None]:
        """Measure again whatever passed so far, with the solutions in an order rotated by one.

        A whole pass over the workloads lies between two measurements of a cell, and each solution follows another one
        than before: what drifts or is left behind then falls on all of them.
        """
        passed = {
            key
            for key, cell in self.cells.items()
            if cell.status is Status.PASSED and key not in self._kept
        }
        turn = number % max(1, len(self.plan.runnable))
        order = [v.name for v in [*self.plan.runnable[turn:], *self.plan.runnable[:turn]]]
        self.progress.note(f"repetition {number + 1} of {self.plan.repeats}")
        self._rounds.append({})
        workloads = self.plan.workloads
        for start in range(0, len(workloads), BATCH):
            batch = workloads[start : start + BATCH]
            names = [
                name
                for name in order
                if name not in self._given_up and any((name, w.id) in passed for w in batch)
            ]
            if names:
                self._call(f"repeat-{number}-{start // BATCH}", names, batch)
            yield

    def _call(self, label: str, names: list[str], batch: list[WorkloadInfo]) -> None:
        """One `flashinfer-bench run` over a fresh root."""
        plan = self.plan
        by_name = {v.name: v for v in plan.runnable}
        variants = [by_name[name] for name in names]
        root = stage(plan.dataset, variants, [w.id for w in batch], plan.scratch / label)
        command = benchmark_command(plan, root, names)
        self.commands.append([Path(command[0]).name, *command[1:]])
        log = plan.scratch / f"{label}.log"
        limit = START_S + len(batch) * (REFERENCE_S + len(names) * plan.profile.timeout)
        asked = {(name, w.id) for w in batch for name in names}

        def on_line(line: str) -> None:
            cell = cell_from_line(line)
            if cell and (cell.solution, cell.workload) in asked and not self._has(cell):
                self._round[cell.solution, cell.workload] = cell
                self.progress.cell(cell)
                if self._clocks:
                    self._clocks.look()

        drop_abandoned(self.plan.paths.kernel_cache)
        finished = follow(
            command, timeout_s=limit, env=self._env, cwd=PROJECT, log=log, on_line=on_line
        )
        self._take_traces(root, asked)
        self._explain_missing(asked, finished, limit, log)
        self._give_up(names, asked)
        shutil.rmtree(root)

    def _has(self, cell: Cell) -> bool:
        known = self._round.get((cell.solution, cell.workload))
        return known is not None and known.origin == "log"

    def _take_traces(self, root: Path, asked: set[tuple[str, str]]) -> None:
        seen: set[tuple[str, str]] = set()
        for path in sorted((root / "traces").rglob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    trace = json.loads(line)
                    cell = cell_from_trace(trace, self.plan.profile)
                except (ValueError, KeyError, TypeError, ValidationError) as error:
                    self.warnings.append(
                        f"A trace of flashinfer-bench could not be read: {error!r:.200}."
                    )
                    continue
                key = (cell.solution, cell.workload)
                if key not in asked:
                    continue
                if key in seen:
                    self.warnings.append(
                        f"flashinfer-bench wrote more than one trace for {key[0]} on {key[1]}; the last one counts."
                    )
                seen.add(key)
                self._round[key] = cell
                trace["evaluation"]["log"] = cell.log_tail or ""
                self.traces[(*key, len(self._rounds) - 1)] = trace

    def _explain_missing(
        self, asked: set[tuple[str, str]], finished: Finished, limit: float, log: Path
    ) -> None:
        if finished.timed_out:
            why = f"flashinfer-bench was killed after {limit:.0f} s"
        elif finished.returncode:
            why = f"flashinfer-bench exited with {finished.returncode}"
        else:
            why = "flashinfer-bench returned no result for it, yet exited with 0"
        for name, workload in asked:
            known = self._round.get((name, workload))
            if known is None or known.origin == "log":
                cell = missing(name, workload, f"{why}; its output is in {shown(log)}")
                tail = cell_module.tail(finished.tail) or None
                self._round[name, workload] = cell.model_copy(update={"log_tail": tail})

    def _give_up(self, names: list[str], asked: set[tuple[str, str]]) -> None:
        """Stop asking for a solution that cannot be built, or that hung: each further cell would cost the same."""
        for name in names:
            mine = [self._round[key] for key in sorted(asked) if key[0] == name]
            for cell in mine:
                hung = cell.status is Status.TIMEOUT and not is_collateral(cell)
                if hung or cell.status is Status.COMPILE_ERROR:
                    self._given_up.setdefault(name, cell)

    def _charge_given_up(self, batch: list[WorkloadInfo]) -> None:
        for name, cause in self._given_up.items():
            for workload in batch:
                if (name, workload.id) in self.cells:
                    continue
                if cause.status is Status.COMPILE_ERROR:
                    cell = cause.model_copy(update={"workload": workload.id})
                else:
                    cell = not_run_after(cause, workload.id)
                self._round[name, workload.id] = cell

    def _retry(self) -> Iterable[None]:
        """Give cells that were lost through no fault of their solution one more try, each solution alone."""
        for variant in self.plan.runnable:
            if variant.name in self._given_up:
                continue
            cells = {w.id: self._round.get((variant.name, w.id)) for w in self.plan.workloads}
            lost = [w for w in self.plan.workloads if (c := cells[w.id]) and is_collateral(c)]
            if not lost:
                continue
            before = {w.id: self._round.pop((variant.name, w.id)) for w in lost}
            self.progress.note(
                f"{variant.label}: {len(lost)} cells were lost; running them again alone"
            )
            try:
                self._call(f"retry-{variant.name}", [variant.name], lost)
            finally:
                for uuid, cell in before.items():
                    self._round.setdefault((variant.name, uuid), cell)
            self._charge_given_up(lost)
            yield


def whole_grids(
    batch: list[WorkloadInfo], names: list[str], known: Collection[tuple[str, str]]
) -> list[tuple[list[str], list[WorkloadInfo]]]:
    """The cells of `batch` and `names` that are not known, as (names, workloads) whose product they are: one call
    runs all of its solutions on all of its workloads."""
    grids: dict[tuple[str, ...], list[WorkloadInfo]] = {}
    for workload in batch:
        lacking = tuple(name for name in names if (name, workload.id) not in known)
        if lacking:
            grids.setdefault(lacking, []).append(workload)
    return [(list(lacking), workloads) for lacking, workloads in grids.items()]


def benchmark_command(plan: Plan, root: Path, names: list[str]) -> list[str]:
    """The command line of one call, every option explicit; paths are relative to the project."""
    return [
        find_flashinfer_bench(),
        "run",
        *("--local", shown(root)),
        *("--definitions", plan.definition.name),
        *("--solutions", *names),
        *plan.profile.flags(),
    ]


def find_flashinfer_bench() -> str:
    """Path of the `flashinfer-bench` command.

    Raises:
        HarnessError: it is not installed.
    """
    beside = Path(sys.executable).parent / "flashinfer-bench"
    path = str(beside) if beside.exists() else shutil.which("flashinfer-bench")
    if path is None:
        raise HarnessError("flashinfer-bench: the command is not installed; run `make setup`")
    return path


def gpu_environment(plan: Plan) -> dict[str, str]:
    """Environment of every process that uses the GPU: only that GPU is visible, code is built for it."""
    assert plan.gpu is not None
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}  # of use on a CPU only
    return {
        **own,
        "CUDA_VISIBLE_DEVICES": plan.gpu.info.uuid or str(plan.gpu.index),
        "PYTHONUNBUFFERED": "1",
        **build_variables(plan.gpu.info.compute_capability, plan.paths.kernel_cache),
    }


def profile_solutions(plan: Plan) -> ProfileRecord:
    """Profile every runnable solution on every workload of the plan, and keep it as profile.json.

    Raises:
        HarnessError: the profiling process failed; the end of its output is quoted.
    """
    root = stage(
        plan.dataset, plan.runnable, [w.id for w in plan.workloads], plan.scratch / "profile"
    )
    out = plan.scratch / "profiles.json"
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    before = gpu_state(plan.gpu.index) if plan.gpu else None
    command = [sys.executable, "-m", "harness.kernel_profile", str(root), plan.definition.name]
    command += [str(out), *(v.name for v in plan.runnable)]
    limit = START_S + len(plan.workloads) * len(plan.runnable) * plan.profile.timeout
    drop_abandoned(plan.paths.kernel_cache)
    finished = follow(command, timeout_s=limit, env=gpu_environment(plan), cwd=PROJECT)
    if finished.returncode != 0:
        last = cell_module.tail(finished.tail).splitlines()[-1:] or ["no output"]
        raise HarnessError(f"profile: the process failed: {last[0]}")
    record = ProfileRecord(
        started=started,
        environment=capture(plan.gpu, before),
        dataset=plan.dataset.info,
        solutions=[v.info() for v in plan.runnable],
        profiles=json.loads(out.read_text(encoding="utf-8")),
    )
    write_atomically(plan.folder / PROFILE_NAME, record.model_dump_json(indent=1) + "\n")
    return record


class Prebuild:
    """Compiles a plan's solutions side by side while the block runs, where there are several; one that does not compile is reported
    where it is used.

    Args:
        say: takes one line of progress.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]):
        self._plan, self._say = plan, say
        self._end = ExitStack()
        self._process: Background | None = None
        self._done = plan.scratch / "prebuild" / DONE
        self._deadline = math.inf

    def __enter__(self) -> "Prebuild":
        plan = self._plan
        several = [v for v in plan.runnable if v.is_compiled_once]
        if len(several) < 2:
            return self
        self._say(f"compiling {len(several)} solutions, where they are not compiled yet")
        # It loads what it has compiled, before anything has examined that: no GPU for it.
        env = {**gpu_environment(plan), VISIBLE: ""}
        root = stage(plan.dataset, several, [plan.workloads[0].id], plan.scratch / "prebuild")
        command = [sys.executable, "-m", "harness.prebuild", str(root), plan.definition.name]
        command.append(str(self._done))
        command += [v.name for v in several]
        self._process = self._end.enter_context(Background(command, env=env, cwd=PROJECT))
        self._deadline = time.monotonic() + len(several) * COMPILE_S
        return self

    def wait(self) -> None:
        """Until all are compiled, or the time for that is up. Its process stays until the block ends, so that what compilers have let
        go of is below it, and nobody's who is under examination."""
        process, self._process = self._process, None
        if process is None:
            return
        while process.returncode() is None and not self._done.exists():
            if time.monotonic() > self._deadline:
                self._say("compiling took too long; each solution is compiled where it is used")
                process.kill_all()
                break
            time.sleep(POLL_S)
        if process.returncode() is not None:
            process.kill_all()  # what it has let go of by dying came to us, and would be another's

    def __exit__(self, *_: object) -> None:
        self._end.close()


def measure_ceilings(plan: Plan) -> tuple[Ceilings | None, str | None]:
    """The GPU's ceilings, or None and a warning when they could not be measured."""
    command = [sys.executable, "-m", "harness.ceilings"]
    finished = follow(command, timeout_s=CEILINGS_S, env=gpu_environment(plan), cwd=PROJECT)
    lines = finished.tail.splitlines() or ["no output"]
    for line in reversed(lines):  # a warning at exit may come after it
        try:
            return Ceilings.model_validate_json(line), None
        except ValidationError:
            continue
    last = cell_module.anonymous(lines[-1])[:200]
    return (
        None,
        f"The ceilings could not be measured, so no floor is shown and no latency is held against it: {last}.",
    )
