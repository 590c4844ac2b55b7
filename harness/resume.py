"""Taking up a run that ended early: what of its record still holds, and what runs again."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import versions, visible_gpus
from harness.errors import HarnessError
from harness.paths import Paths, shown
from harness.plan import Plan, Request, make_plan
from harness.record import (
    Cell,
    Resumption,
    RunRecord,
    Status,
    Verification,
    VerificationInfo,
    load_record,
)

TRACES_NAME = "traces.jsonl"
Key = tuple[str, str]


@dataclass(frozen=True)
class Kept:
    """What a former record contributes to the run that takes it up."""

    record: RunRecord
    cells: dict[Key, Cell] = field(default_factory=dict)
    """Finished cells of solutions whose sources are what they were."""
    traces: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)
    """Their flashinfer-bench traces, numbered where there are repetitions."""
    verdicts: list[Verification] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Labels of solutions whose sources have changed."""

    def resumption(self, now: str) -> Resumption:
        """What the record says of this."""
        return Resumption(started=now, kept_cells=len(self.cells), dropped=self.dropped)

    def verification(self) -> VerificationInfo:
        """The stage as it was, with the verdicts that still hold."""
        before = self.record.verification or VerificationInfo(form="none")
        return VerificationInfo(form=before.form, seed=before.seed, solutions=list(self.verdicts))


def resume_plan(run: str, paths: Paths) -> tuple[Plan, Kept]:
    """The plan of a run as its record has it, and what is finished.

    Raises:
        HarnessError: no record, or one of another kind; or something that results depend on has changed since: profile,
            definition, dataset, GPU or versions. Then old and new cells would not be comparable.
    """
    name = run.removeprefix("results/").rstrip("/")
    record = load_record(paths.results / name)
    if record.backend == "document" or (record.verification and record.verification.form == "full"):
        raise HarnessError(
            f"RESUME: {shown(paths.results / name)} is no benchmark run; name one that `bench` began"
        )
    gpu = record.environment.gpu
    request = Request(
        solutions=[solution.name for solution in record.solutions],
        profile=record.profile_name,
        workloads=[workload.id for workload in record.workloads],
        gpu=_position(gpu.uuid) if gpu else None,
        run=name,
        suite=record.dataset.suite,
        backend=record.backend,
        definition=record.definition.name,
        repeats=record.repeats,
        resume=True,
    )
    plan = make_plan(request, paths)
    _check_surroundings(record, plan, paths)
    return plan, keep(record, plan)


def _position(uuid: str | None) -> int:
    """Where the run's GPU stands among those that are visible now; that it is another one is found later."""
    found = [number for number, gpu in enumerate(visible_gpus()) if gpu.info.uuid == uuid]
    return found[0] if found else 0


def keep(record: RunRecord, plan: Plan) -> Kept:
    """What of `record` still holds under `plan`: keyed on the hash of each solution's sources."""
    hashes = {variant.name: variant.source_hash() for variant in plan.variants}
    same = {s.name for s in record.solutions if s.source_hash == hashes.get(s.name)}
    cells = {
        (cell.solution, cell.workload): cell
        for cell in record.cells
        if cell.solution in same and _finished(cell, record.repeats)
    }
    before = record.verification.solutions if record.verification else []
    verdicts = [v for v in before if hashes.get(v.solution) == v.source_hash]
    traces, warnings = _read_traces(plan.folder / TRACES_NAME, cells)
    labels = [s.label for s in record.solutions if s.name not in same]
    return Kept(record, cells, traces, verdicts, warnings, labels)


def _finished(cell: Cell, repeats: int) -> bool:
    """Whether a cell need not run again.

    A log line has no latency; SKIPPED and VERIFY_FAILED are decided anew; and repetitions belong to one run, so that a
    cell which lacks some is measured again from the first.
    """
    undecided = (Status.MISSING, Status.SKIPPED, Status.VERIFY_FAILED)
    if cell.status in undecided or cell.origin == "log":
        return False
    return (
        repeats == 1 or cell.status is not Status.PASSED or len(cell.repeat_latencies_ms) == repeats
    )


def _read_traces(
    path: Path, cells: dict[Key, Cell]
) -> tuple[dict[tuple[str, str, int], dict[str, Any]], list[str]]:
    """The traces of `cells`; lines that cannot be read are left out, with a warning."""
    traces: dict[tuple[str, str, int], dict[str, Any]] = {}
    seen: Counter[Key] = Counter()
    damaged = 0
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                trace = json.loads(line)
                key = (trace["solution"], trace["workload"]["uuid"])
            except (ValueError, KeyError, TypeError):
                damaged += 1
                continue
            if key in cells:
                traces[(*key, seen[key])] = trace
                seen[key] += 1
    if damaged:
        return traces, [f"{damaged} line(s) of {TRACES_NAME} were damaged and are left out."]
    return traces, []


def _check_surroundings(record: RunRecord, plan: Plan, paths: Paths) -> None:
    here = plan.gpu.info.uuid if plan.gpu else None
    gpu = record.environment.gpu
    pairs = {
        f"the profile {record.profile_name}": (record.profile, plan.profile),
        "the definition's axes": (record.definition.axes, plan.definition.const_axes),
        "the dataset's hash": (record.dataset.hash, plan.dataset.info.hash),
        "the GPU": (gpu.uuid if gpu else None, here),
    }
    known = versions()
    for package, version in record.environment.versions.items():
        pairs[f"the version of {package}"] = (version, known.get(package))
    for what, (then, now) in pairs.items():
        if then != now:
            shown_values = (
                "" if what.startswith(("the profile", "the def")) else f" ({then}, now {now})"
            )
            raise HarnessError(
                f"RESUME: {shown(paths.results / record.run_id)}: {what} is not what it was{shown_values}, so old and new "
                "cells would not be comparable; restore it, or start a new run"
            )
