"""One run from plan to report: the record is saved as cells come, and whole at the end."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from rich.console import Console

from harness.bench import GpuBackend, measure_ceilings
from harness.cells import in_grid_order
from harness.cpu import CpuBackend
from harness.environment import capture, gpu_state, versions
from harness.errors import ExitCode
from harness.plan import Plan
from harness.progress import Progress
from harness.record import (
    Ceilings,
    Cell,
    GpuState,
    RunRecord,
    Status,
    VerificationInfo,
    save_record,
    write_atomically,
)
from harness.report.markdown import write_report
from harness.verify.stage import (
    accuracy_cells,
    refusals,
    refused_cells,
    verify_plan,
    without_impossible,
)

TRACES_NAME = "traces.jsonl"


class Backend(Protocol):
    """What fills the grid."""

    cells: dict[tuple[str, str], Cell]
    traces: dict[tuple[str, str], dict[str, Any]]
    commands: list[list[str]]
    warnings: list[str]

    def run(self) -> Iterable[None]: ...


@dataclass
class _Session:
    """What the record needs besides the backend's cells."""

    plan: Plan
    command: list[str]
    started: str = field(default_factory=lambda: _now())
    before: GpuState | None = None
    ceilings: Ceilings | None = None
    warnings: list[str] = field(default_factory=list)
    verification: VerificationInfo = field(default_factory=lambda: VerificationInfo(form="none"))


def execute(
    plan: Plan, command: list[str], console: Console, verify: bool = True
) -> tuple[RunRecord, ExitCode]:
    """Run the plan, write record and report under results/, and say how it ended.

    Ctrl-C ends the run early; what is finished by then is in the record, which is marked partial.

    Args:
        command: the user's command line, for the record.
        verify: put each solution through the short form of `verify` first; what fails is not timed.

    Raises:
        HarnessError: the profile's tolerance means nothing, or solutions cannot be verified here.
    """
    plan.scratch.mkdir(parents=True)
    session = _Session(plan, command)
    labels = {v.name: v.label for v in plan.variants}
    interrupted = False
    total = len(plan.runnable) * len(plan.workloads)
    with Progress(console, total, labels) as progress:
        backend: Backend = (GpuBackend if plan.gpu else CpuBackend)(plan, progress)
        for name, reason in plan.skipped.items():
            progress.note(f"{labels[name]}: SKIPPED, {reason}")
        try:
            if plan.gpu is None and os.environ.get("FIB_DATASET_PATH"):
                warning = (
                    "FIB_DATASET_PATH was not used: the CPU backend has a small dataset of its own."
                )
                session.warnings.append(warning)
                progress.note(warning)
            if plan.gpu:
                session.before = gpu_state(plan.gpu.index)
                session.warnings += _gpu_warnings(session.before)
                progress.note(f"measuring the ceilings of {plan.gpu.info.name}")
                session.ceilings, warning = measure_ceilings(plan)
                session.warnings += [warning] if warning else []
            if verify:
                progress.note("verifying, short form")
                session.verification.form = "short"
                for _ in verify_plan(
                    plan, "short", progress.note, session.verification, ceilings=session.ceilings
                ):
                    _save(_record(session, backend, partial=True), backend, plan)
                plan.refused.update(refusals(session.verification))
            for _ in backend.run():
                _save(_record(session, backend, partial=True), backend, plan)
        except KeyboardInterrupt:
            interrupted = True
            progress.note("interrupted; keeping what is finished")
    record = _record(session, backend, partial=interrupted)
    _save(record, backend, plan)
    write_report(plan.folder)
    if interrupted:
        return record, ExitCode.INTERRUPTED
    if any(cell.status is Status.VERIFY_FAILED for cell in record.cells):
        return record, ExitCode.INTEGRITY
    return record, ExitCode.OK if record.all_passed() else ExitCode.FAILED_CELLS


def verify_only(
    plan: Plan,
    command: list[str],
    console: Console,
    tools: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    seed: int | None = None,
) -> tuple[RunRecord, ExitCode]:
    """Verify in full, write record and report, and say how it ended; nothing is timed for comparison.

    Args:
        tools: of compute-sanitizer, run besides.
        only: names of checks; empty: all.
        seed: of all inputs; None: drawn now.

    Raises:
        HarnessError: as `execute`.
    """
    plan.scratch.mkdir(parents=True)
    session = _Session(plan, command)
    session.verification = VerificationInfo(form="full", seed=seed)
    interrupted = False
    nothing = _Verified(plan, session.verification)
    labels = {v.name: v.label for v in plan.variants}
    with Progress(console, len(plan.runnable), labels) as progress:
        for name, reason in plan.skipped.items():
            progress.note(f"{labels[name]}: SKIPPED, {reason}")
        try:
            if plan.gpu:
                session.before = gpu_state(plan.gpu.index)
                session.warnings += _gpu_warnings(session.before)
                progress.note(f"measuring the ceilings of {plan.gpu.info.name}")
                session.ceilings, warning = measure_ceilings(plan)
                session.warnings += [warning] if warning else []
            for _ in verify_plan(
                plan,
                "full",
                progress.note,
                session.verification,
                ceilings=session.ceilings,
                tools=tools,
                only=only,
            ):
                save_record(_record(session, nothing, partial=True), plan.folder)
        except KeyboardInterrupt:
            interrupted = True
            progress.note("interrupted; keeping what is finished")
    record = _record(session, nothing, partial=interrupted)
    save_record(record, plan.folder)
    write_report(plan.folder)
    if interrupted:
        return record, ExitCode.INTERRUPTED
    if any(verification.failed for verification in session.verification.solutions):
        return record, ExitCode.INTEGRITY
    verified = bool(session.verification.solutions)
    return record, ExitCode.OK if verified else ExitCode.FAILED_CELLS


class _Verified:
    """A backend that fills the grid from the accuracy report."""

    def __init__(self, plan: Plan, info: VerificationInfo):
        self._plan, self._info = plan, info
        self.traces: dict[tuple[str, str], dict[str, Any]] = {}
        self.commands: list[list[str]] = []
        self.warnings: list[str] = []

    @property
    def cells(self) -> dict[tuple[str, str], Cell]:
        known = {verification.solution for verification in self._info.solutions}
        found = accuracy_cells(self._plan, self._info)
        return {_key(cell): cell for cell in found if cell.solution in known}

    def run(self) -> Iterable[None]:
        return ()


def _save(record: RunRecord, backend: Backend, plan: Plan) -> None:
    """Write the record, and the traces behind it in FlashInfer-Bench's own format."""
    save_record(record, plan.folder)
    if backend.traces:
        lines = "".join(json.dumps(trace) + "\n" for trace in backend.traces.values())
        write_atomically(plan.folder / TRACES_NAME, lines)


def _record(session: _Session, backend: Backend, partial: bool) -> RunRecord:
    plan = session.plan
    skipped = [
        Cell(solution=name, workload=w.id, status=Status.SKIPPED, reason=reason, origin="harness")
        for name, reason in plan.skipped.items()
        for w in plan.workloads
    ]
    measured = list(backend.cells.values())
    if session.verification.form != "none":
        measured = without_impossible(
            measured, plan.workloads, plan.definition.info(), session.ceilings
        )
    cells = in_grid_order(
        [*skipped, *refused_cells(plan.refused, plan.workloads), *measured],
        [v.name for v in plan.variants],
        [w.id for w in plan.workloads],
    )
    if partial:  # what has not run is not a failure
        cells = [c for c in cells if c.status is not Status.MISSING or _key(c) in backend.cells]
    return RunRecord(
        run_id=plan.run_id,
        backend="gpu" if plan.gpu else "cpu",
        partial=partial,
        started=session.started,
        ended=_now(),
        command=session.command,
        benchmark_commands=backend.commands,
        timer=_timer(plan),
        profile_name=plan.profile_name,
        profile=plan.profile,
        definition=plan.definition.info(),
        dataset=plan.dataset.info,
        solutions=[v.info() for v in plan.variants],
        workloads=plan.workloads,
        cells=cells,
        environment=capture(plan.gpu, session.before),
        ceilings=session.ceilings,
        warnings=[*session.warnings, *backend.warnings],
        verification=session.verification,
    )


def _key(cell: Cell) -> tuple[str, str]:
    return cell.solution, cell.workload


def _timer(plan: Plan) -> str | None:
    if plan.gpu is None:
        return None
    version = versions()["flashinfer-bench"]
    return (
        f"flashinfer-bench {version}: CUDA events around each call, L2 flushed before it; "
        f"mean of {plan.profile.num_trials} trial means of {plan.profile.iterations} calls"
    )


def _gpu_warnings(state: GpuState | None) -> list[str]:
    warnings = []
    if state and state.throttle_reasons:
        warnings.append(
            f"Clocks were held down before the run: {', '.join(state.throttle_reasons)}."
        )
    if state and state.other_processes:
        warnings.append(
            f"{state.other_processes} other process(es) used the GPU when the run began; latencies may be too high."
        )
    return warnings


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command_line() -> list[str]:
    """This process's command line as a user would type it."""
    return ["python", "-m", "harness", *sys.argv[1:]]
