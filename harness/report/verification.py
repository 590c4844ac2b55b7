"""The verification section of a report."""

from collections import Counter
from dataclasses import dataclass

from harness.record import CheckResult, RunRecord, Verification, VerificationInfo
from harness.report.names import Names
from harness.report.numbers import count, listed

WORDS = {"passed": "passed", "failed": "FAILED", "not_applicable": "n/a", "not_run": "not run"}


@dataclass(frozen=True)
class VerdictRow:
    """One solution."""

    label: str
    verdict: str
    """PASS, FAIL, or - for one that was not verified."""
    passed: int
    not_applicable: int
    failed: tuple[CheckResult, ...]
    repeat: str
    """Whether identical calls gave identical bits."""


@dataclass(frozen=True)
class AccuracyRow:
    """One workload; a figure per solution, None where there is none."""

    short_id: str
    seq_len: int
    entries: tuple[tuple[float, float, float, float, float] | None, ...]
    """Matched ratio at the seed and at the contest tolerance, cosine, largest absolute and relative error."""


@dataclass(frozen=True)
class VerificationView:
    """What a report says about verification."""

    line: str
    """For the head of the report."""
    sentence: str
    labels: tuple[str, ...]
    verdicts: tuple[VerdictRow, ...]
    checks: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of each check, and its outcome for each solution."""
    accuracy: tuple[AccuracyRow, ...]


def build(record: RunRecord, names: Names) -> VerificationView | None:
    """None for a record from before verification existed."""
    info = record.verification
    if info is None:
        return None
    found = [info.of(solution.name) for solution in record.solutions]
    labels = tuple(names.label(solution.name) for solution in record.solutions)
    return VerificationView(
        line=_line(info, labels, found),
        sentence=_sentence(info),
        labels=labels,
        verdicts=tuple(map(_verdict, labels, found)) if info.solutions else (),
        checks=_checks(found),
        accuracy=_accuracy(record, found, names),
    )


def _line(info: VerificationInfo, labels: tuple[str, ...], found: list[Verification | None]) -> str:
    if info.form == "none":
        return "unverified: nothing vouches that every timed call computed its result"
    failed = [label for label, v in zip(labels, found, strict=True) if v and v.failed]
    absent = [label for label, v in zip(labels, found, strict=True) if v is None]
    passed = sum(v is not None and not v.failed for v in found)
    parts = [f"{passed} of {count(len(found), 'solution')} passed"]
    parts += [f"failed: {listed(failed)}"] if failed else []
    parts += [f"not verified: {listed(absent)}"] if absent else []
    return f"{info.form} form, {'; '.join(parts)}"


def _sentence(info: VerificationInfo) -> str:
    return (
        f"Each solution ran in a process of its own on inputs drawn from seed {info.seed}; its outputs were compared with a "
        "float64 reference outside of that process. What that proves and what it does not: docs/trust.md."
    )


def _verdict(label: str, found: Verification | None) -> VerdictRow:
    if found is None:
        return VerdictRow(label, "-", 0, 0, (), "-")
    outcomes = Counter(check.outcome for check in found.checks)
    repeat = next(
        (c.detail for c in found.checks if c.name == "repeat" and c.outcome == "passed"), "-"
    )
    return VerdictRow(
        label=label,
        verdict="FAIL" if found.failed else "PASS",
        passed=outcomes["passed"],
        not_applicable=outcomes["not_applicable"],
        failed=tuple(found.failed),
        repeat=repeat,
    )


def _checks(found: list[Verification | None]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    order = dict.fromkeys(check.name for v in found if v for check in v.checks)
    outcomes = [{c.name: WORDS[c.outcome] for c in v.checks} if v else {} for v in found]
    return tuple((name, tuple(o.get(name, "-") for o in outcomes)) for name in order)


def _accuracy(
    record: RunRecord, found: list[Verification | None], names: Names
) -> tuple[AccuracyRow, ...]:
    by_workload = [{a.workload: a for a in v.accuracy} if v else {} for v in found]
    rows = []
    for workload in sorted(record.workloads, key=lambda w: (w.seq_len, w.id)):
        entries = tuple(
            (a.matched_seed, a.matched_contest, a.cosine, a.max_abs_error, a.max_rel_error)
            if (a := known.get(workload.id))
            else None
            for known in by_workload
        )
        if any(entries):
            rows.append(AccuracyRow(names.workload(workload.id), workload.seq_len, entries))
    return tuple(rows)
