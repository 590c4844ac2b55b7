"""Whether the numbers of several records may be set side by side, and what a reader should know of them if so."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from harness.credible import credible
from harness.errors import HarnessError
from harness.noise import LEAST
from harness.profile import Profile
from harness.record import RunRecord
from harness.report.numbers import listed, times
from harness.stats import CLOSE


def check_comparable(records: Sequence[RunRecord]) -> list[str]:
    """What differs between records that must be alike for their numbers to be set side by side; empty when nothing does."""
    first, *others = records
    return [
        f"{name} differs: {first.run_id} has {_said(value(first))}, {other.run_id} {_said(value(other))}"
        for other in others
        for name, value in MUST_AGREE.items()
        if value(first) != value(other)
    ]


def require_comparable(records: Sequence[RunRecord]) -> None:
    """Raise HarnessError with every difference when the records are not comparable."""
    if differences := check_comparable(records):
        raise HarnessError(
            f"{'; '.join(differences)}; --allow-different compares them all the same"
        )


def told_apart(records: Sequence[RunRecord], folders: Sequence[str]) -> list[RunRecord]:
    """The records, those of one run id under names of their own: the folder's, or else a number for the place."""
    ids = Counter(record.run_id for record in records)
    names = [
        folder if ids[record.run_id] > 1 else record.run_id
        for record, folder in zip(records, folders, strict=True)
    ]
    number: Counter[str] = Counter()
    found = []
    for record, name in zip(records, names, strict=True):
        number[name] += 1
        unique = f"{name} ({number[name]})" if number[name] > 1 else name
        found.append(record.model_copy(update={"run_id": unique}))
    return found


def remarks(records: Sequence[RunRecord]) -> list[str]:
    """What a reader should know of records that are compared.

    What differs that should not, copies, other hosts and cards, partial records, warnings of the runs.
    """
    first, *others = [credible(record)[0] for record in records]
    found = check_comparable(records)
    new: list[RunRecord] = []
    for record in records:
        like = next((other for other in new if _copies(record, other)), None)
        if like is None:
            new.append(record)
        else:
            found.append(f"{record.run_id} and {like.run_id} are the same record.")
    for other in others:
        hosts = (first.environment.host, other.environment.host)
        if hosts[0] != hosts[1]:
            found.append(
                f"{other.run_id} ran on another host than {first.run_id}; where the GPU waits for the host, that moves latencies."
            )
        cards = [r.environment.gpu and r.environment.gpu.uuid for r in (first, other)]
        if all(cards) and cards[0] != cards[1]:
            found.append(f"{other.run_id} ran on another card than {first.run_id}.")
        drift = _reference_drift(first, other)
        if drift is not None and max(drift, 1 / drift) > 1 + CLOSE:
            found.append(
                f"The reference itself took {times(drift)} as long in {other.run_id} as in {first.run_id}: that much may "
                "be the machine's and not the solutions'."
            )
    single = [record.run_id for record in new if record.repeats < LEAST and record.timer]
    if single and len(new) > 1:
        found.append(
            f"Without {LEAST} or more repetitions, as in {listed(single)}, a change may be the host's noise."
        )
    for record in new:
        if record.partial:
            found.append(
                f"{record.run_id} was interrupted; cells that it lacks count as not passed."
            )
        doubts = credible(record)[1]
        found += [f"{record.run_id}: {warning}" for warning in (*record.warnings, *doubts)]
    return found


def _copies(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records differ in nothing but the name that they go by here."""
    return (
        one.model_copy(update={"run_id": other.run_id}).model_dump_json() == other.model_dump_json()
    )


def _reference_drift(before: RunRecord, after: RunRecord) -> float | None:
    """Geometric mean over workloads of the reference's latency, now / then; None without one in common."""
    then, now = (
        {c.workload: c.reference_latency_ms for c in record.cells if c.reference_latency_ms}
        for record in (before, after)
    )
    ratios = [math.log(now[workload] / then[workload]) for workload in then if workload in now]
    return math.exp(fmean(ratios)) if ratios else None


def _gpu(record: RunRecord) -> str | None:
    gpu = record.environment.gpu
    return gpu.name if gpu else None


def _dataset(record: RunRecord) -> tuple[str, str, str | None]:
    info = record.dataset
    return info.kind, info.suite, info.hash and info.hash[:12]


def _timer(record: RunRecord) -> str | None:
    """Version and kind of the timer. What a record says beyond that is wording, or numbers of the profile."""
    return record.timer and record.timer.split(" around ")[0]


def _profile_value(key: str) -> Callable[[RunRecord], object]:
    return lambda record: getattr(record.profile, key)


MUST_AGREE: dict[str, Callable[[RunRecord], object]] = {
    "GPU": _gpu,
    "definition": lambda record: record.definition.name,
    "dataset": _dataset,
    **{
        f"{key} of the profile": _profile_value(key)
        for key in Profile.model_fields
        if key != "summary"
    },
    "timer": _timer,
    "flashinfer-bench version": lambda r: r.environment.versions.get("flashinfer-bench"),
}
"""What must be alike for numbers of two records to be set side by side, and how to get it."""


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value if part)
    return "none" if value is None else str(value)
