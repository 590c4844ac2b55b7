"""One run from plan to report: the record is saved as cells come, and whole at the end."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console

from harness.atomic import write_atomically
from harness.bench import GpuBackend, Prebuild, measure_ceilings
from harness.cells import in_grid_order
from harness.cpu import CpuBackend
from harness.environment import KNOWN_FLASHINFER_BENCH, capture, gpu_state, versions
from harness.errors import ExitCode, HarnessError
from harness.paths import shown
from harness.plan import Plan
from harness.profile import Profile
from harness.progress import Progress
from harness.record import (
    SCHEMA_VERSION,
    Ceilings,
    Cell,
    GpuState,
    Resumption,
    RunRecord,
    Status,
    VerificationInfo,
    save_record,
)
from harness.report import write_report
from harness.resume import TRACES_NAME, Kept
from harness.verify.stage import (
    VerifiedOnly,
    open_judge,
    refusals,
    refused_cells,
    unverified,
    verify_all,
    without_impossible,
    without_unexamined,
)


class Backend(Protocol):
    """What fills the grid."""

    @property
    def cells(self) -> dict[tuple[str, str], Cell]: ...

    traces: dict[Any, dict[str, Any]]
    commands: list[list[str]]
    warnings: list[str]
    on_cell: Callable[[], None]
    """Called after each cell of which nothing more will become known."""

    def run(self) -> Iterable[None]: ...

    def clock_warnings(self) -> list[str]: ...


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
    resumptions: list[Resumption] = field(default_factory=list)

    def take_up(self, kept: Kept) -> None:
        """Go on where a former record ends."""
        former = kept.record
        self.command, self.started, self.ceilings = former.command, former.started, former.ceilings
        self.resumptions = [*former.resumptions, kept.resumption(_now())]
        self.warnings = list(dict.fromkeys([*former.warnings, *kept.warnings]))
        self.verification = kept.verification()


@dataclass(frozen=True)
class Verify:
    """What is verified, before or instead of a benchmark."""

    form: Literal["full", "short", "none"] = "short"
    """full: instead of a benchmark; nothing is timed for comparison."""
    tools: tuple[str, ...] = ()
    """Of compute-sanitizer, run besides."""
    only: tuple[str, ...] = ()
    """Names of checks; empty: all of the form."""
    seed: int | None = None
    """Of all inputs; None: drawn when it begins."""


def execute(
    plan: Plan,
    command: list[str],
    console: Console,
    verify: Verify = Verify(),
    kept: Kept | None = None,
) -> tuple[RunRecord, ExitCode]:
    """Run the plan, write record and report under results/, and say how it ended.

    Ctrl-C and a disk that is full end the run early; what is finished by then is in the record, which is marked
    partial.

    Args:
        command: the user's command line, for the record.
        verify: what is verified first; what fails is not timed.
        kept: what is there of a run that is taken up again.

    Raises:
        HarnessError: the profile's tolerance means nothing, solutions cannot be verified here, or a file could not be
            written; then the record was, with the finished cells.
        OSError: not even the record could be written.
    """
    session = _Session(plan, command)
    session.verification = VerificationInfo(form=verify.form, seed=verify.seed)
    if kept:
        session.take_up(kept)
    info = session.verification
    labels = {v.name: v.label for v in plan.variants}
    size = len(plan.workloads) * plan.repeats if verify.form != "full" else 1
    total = len(plan.runnable) * size - len(kept.cells if kept else ()) * plan.repeats
    with Progress(console, total, labels) as progress:
        backend = _backend(plan, info, progress, kept)
        for name, reason in plan.skipped.items():
            progress.note(f"{labels[name]}: SKIPPED, {reason}")
        if plan.gpu:  # before the judge has a context there
            session.before = gpu_state(plan.gpu.index)
        judge = open_judge(plan, info, progress.note, verify.tools, verify.only)
        # The record comes first, so that whatever happens later can be taken up again.
        save_record(_record(session, backend, partial=True), plan.folder)
        plan.scratch.mkdir(parents=True, exist_ok=True)
        interrupted, failed = False, None
        try:
            if plan.gpu is None and os.environ.get("FIB_DATASET_PATH"):
                warning = (
                    "FIB_DATASET_PATH was not used: the CPU backend has a small dataset of its own."
                )
                session.warnings.append(warning)
                progress.note(warning)
            with ExitStack() as end:
                if judge is not None:
                    end.callback(judge.close)
                    judge.expect(unverified(plan, info)[0])
                if plan.gpu:
                    session.warnings += _gpu_warnings(session.before, "before")
                    if session.ceilings is None:
                        progress.note(f"measuring the ceilings of {plan.gpu.info.name}")
                        session.ceilings, warning = measure_ceilings(plan)
                        session.warnings += [warning] if warning else []
                compiling = Prebuild(plan, progress.note)
                if plan.gpu and kept is None:  # else it has been done
                    end.enter_context(compiling)
                if judge is not None:
                    progress.note(f"verifying, {info.form} form")
                    for _ in verify_all(judge, plan, info, session.ceilings, compiling.wait):
                        _save(_record(session, backend, partial=True), backend, plan)
                compiling.wait()
            plan.refused.update(refusals(info))
            backend.on_cell = lambda: _save(_record(session, backend, partial=True), backend, plan)
            for _ in backend.run():
                _save(_record(session, backend, partial=True), backend, plan)
            if plan.gpu:
                session.warnings += _gpu_warnings(gpu_state(plan.gpu.index), "after")
        except KeyboardInterrupt:
            interrupted = True
            # From here on it takes seconds, and an impatient second Ctrl-C would lose what the first one kept.
            for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(sig, signal.SIG_IGN)
            progress.note("interrupted; keeping what is finished")
        except OSError as error:
            failed = error
            progress.note(f"{_named(error)}; keeping what is finished")
            session.warnings.append(f"The run ended early: {_named(error)}.")
            shutil.rmtree(plan.scratch, ignore_errors=True)  # makes room for the record
    record = _record(session, backend, partial=interrupted or failed is not None)
    try:
        _save(record, backend, plan)
    except OSError as error:
        failed = failed or error
        shutil.rmtree(plan.scratch, ignore_errors=True)
        save_record(
            record, plan.folder
        )  # all that a report needs; the traces are what there was no room for
    write_report(plan.folder)
    if failed:
        raise HarnessError(
            f"{_named(failed)}; make room and run again; {shown(plan.folder)} has the cells that were finished"
        )
    return record, _exit_code(record, interrupted)


def _exit_code(record: RunRecord, interrupted: bool) -> ExitCode:
    info = record.verification
    if interrupted:
        return ExitCode.INTERRUPTED
    if any(cell.status is Status.VERIFY_FAILED for cell in record.cells):
        return ExitCode.INTEGRITY
    if info and info.form == "full":
        if refusals(info):
            return ExitCode.INTEGRITY
        unbuilt = any(verification.unbuilt for verification in info.solutions)
        return ExitCode.OK if info.solutions and not unbuilt else ExitCode.FAILED_CELLS
    return ExitCode.OK if record.all_passed() else ExitCode.FAILED_CELLS


def _backend(plan: Plan, info: VerificationInfo, progress: Progress, kept: Kept | None) -> Backend:
    if info.form == "full":
        return VerifiedOnly(plan, info)
    backend = (GpuBackend if plan.gpu else CpuBackend)(plan, progress)
    if kept:
        backend.take_up(kept)
    return backend


def _named(error: OSError) -> str:
    """The file and what is wrong with it."""
    return (
        f"{shown(Path(error.filename)) if error.filename else 'a file'}: {error.strerror or error}"
    )


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
            without_unexamined(measured, session.verification),
            plan.workloads,
            plan.definition.info(),
            session.ceilings,
        )
    cells = in_grid_order(
        [*skipped, *refused_cells(plan.refused, plan.workloads), *measured],
        [v.name for v in plan.variants],
        [w.id for w in plan.workloads],
    )
    if partial:  # what has not run is not a failure
        cells = [c for c in cells if c.status is not Status.MISSING or _key(c) in backend.cells]
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=plan.run_id,
        backend="gpu" if plan.gpu else "cpu",
        partial=partial,
        started=session.started,
        ended=_now(),
        command=session.command,
        benchmark_commands=backend.commands,
        timer=timer(versions()["flashinfer-bench"], plan.profile) if plan.gpu else None,
        profile_name=plan.profile_name,
        profile=plan.profile,
        definition=plan.definition.info(),
        dataset=plan.dataset.info,
        solutions=[v.info() for v in plan.variants],
        workloads=plan.workloads,
        repeats=plan.repeats,
        cells=cells,
        environment=capture(plan.gpu, session.before),
        ceilings=session.ceilings,
        warnings=[*session.warnings, *backend.warnings, *backend.clock_warnings()],
        verification=session.verification,
        resumptions=session.resumptions,
    )


def _key(cell: Cell) -> tuple[str, str]:
    return cell.solution, cell.workload


def timer(version: str | None, profile: Profile) -> str:
    """What measured the latencies, in words; how other versions than the known one measure is not known here."""
    if version != KNOWN_FLASHINFER_BENCH:
        return (
            f"flashinfer-bench {version or 'of unknown version'}: how this version measures is not known to the "
            f"harness, which knows {KNOWN_FLASHINFER_BENCH}; {profile.num_trials} trials of {profile.iterations} calls"
        )
    return (
        f"flashinfer-bench {version}: CUDA events around each call on an idle GPU; before it L2 is flushed and then the "
        "inputs are cloned, so what was cloned last may be in L2; "
        f"mean of {profile.num_trials} trial means of {profile.iterations} calls"
    )


def _gpu_warnings(state: GpuState | None, when: Literal["before", "after"]) -> list[str]:
    warnings = []
    if state and state.throttle_reasons:
        warnings.append(
            f"Clocks were held down {when} the run: {', '.join(state.throttle_reasons)}."
        )
    if state and state.other_processes:
        moment = "began" if when == "before" else "ended"
        warnings.append(
            f"{state.other_processes} other process(es) used the GPU when the run {moment}; latencies may be too high."
        )
    return warnings


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command_line() -> list[str]:
    """This process's command line as a user would type it."""
    return ["python", "-m", "harness", *sys.argv[1:]]
