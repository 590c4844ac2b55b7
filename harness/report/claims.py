"""Check the statements of a transcribed document against the numbers that it shows itself.

A statement of numbers is confirmed when the computed value, rounded like the stated one, equals it.
Metrics:

    average, small_average, large_average, min, max   subject: solution
    best              subject: workload; stated: list of solutions, several for a tie
    best_or_tied      subject: solution; stated: number of workloads
    tied              subject: solution; stated: number of workloads
    average_ratio     subject: solution, other; the mean of per-workload ratios
    ratio_range       subject: solution, other, min_tokens?, max_tokens?; stated: [low, high]
    gain_percent      the same subject; stated: [low, high] that every workload must lie in
    largest_ratio_at  the same subject; stated: the workload with the largest ratio
    order             stated: solutions by falling average
    close_averages    subject: solution, other; stated: true when within stats.CLOSE
    share_of_stated   subject: solution, average (as the document gives it); stated: ratio
    not_checkable     subject: reason; nothing in the record can tell
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from harness.record import Claim, RunRecord
from harness.report.names import Names
from harness.report.numbers import count, listed, plain, span, times
from harness.stats import (
    CLOSE,
    Comparison,
    best_on,
    compare,
    ranking,
    rounded,
    solution_stats,
    workload_ids,
)


class Verdict(str, Enum):
    """What the record says of a claim."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    NOT_CHECKABLE = "not checkable"


@dataclass(frozen=True)
class CheckedClaim:
    """A claim with what the record says of it."""

    claim: Claim
    verdict: Verdict
    stated: str
    """The stated value in words."""
    computed: str
    """The computed value in words; the reason when the claim is not checkable."""


class _Unknown(Exception):
    """The record lacks what the claim is about."""


def check_claims(record: RunRecord) -> tuple[CheckedClaim, ...]:
    """Every claim of a transcribed record, in its order; empty for a measured one."""
    claims = record.transcription.claims if record.transcription else []
    names = Names(record)
    return tuple(check_claim(record, claim, names) for claim in claims)


def check_claim(record: RunRecord, claim: Claim, names: Names | None = None) -> CheckedClaim:
    """One claim against the record. A claim about what the record does not hold is not
    checkable."""
    names = names or Names(record)
    if claim.metric == "not_checkable":
        reason = str(claim.subject.get("reason") or "the table does not show it")
        return CheckedClaim(claim, Verdict.NOT_CHECKABLE, "", reason)
    check = _CHECKS.get(claim.metric)
    if check is None:
        reason = f"the metric '{claim.metric}' is not known"
        return CheckedClaim(claim, Verdict.NOT_CHECKABLE, "", reason)
    try:
        holds, stated, computed = check(record, claim, names)
    except _Unknown as unknown:
        return CheckedClaim(claim, Verdict.NOT_CHECKABLE, "", str(unknown))
    except (KeyError, TypeError, ValueError):
        reason = f"the claim's subject or value does not fit the metric '{claim.metric}'"
        return CheckedClaim(claim, Verdict.NOT_CHECKABLE, "", reason)
    return CheckedClaim(
        claim, Verdict.CONFIRMED if holds else Verdict.CONTRADICTED, stated, computed
    )


_Outcome = tuple[bool, str, str]
_Check = Callable[[RunRecord, Claim, Names], _Outcome]


def _same(computed: float, stated: Any) -> bool:
    return rounded(computed) == rounded(float(stated))


def _average(record: RunRecord, solution: str) -> float:
    value = solution_stats(record, solution).average.value
    if value is None:
        raise _Unknown(f"{solution} has no speedup in the record")
    return value


def _statistic(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    stats = solution_stats(record, claim.subject["solution"])
    value = {
        "average": stats.average.value,
        "small_average": stats.small.value,
        "large_average": stats.large.value,
        "min": stats.min,
        "max": stats.max,
    }[claim.metric]
    if value is None:
        raise _Unknown(f"{names.label(stats.solution)} has no such speedup in the record")
    return _same(value, claim.stated), times(float(claim.stated)), times(value)


def _winners(solutions: list[str], names: Names) -> str:
    text = listed(names.label(name) for name in solutions)
    return f"tie of {text}" if len(solutions) > 1 else text


def _best(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    best = best_on(record, claim.subject["workload"])
    if best is None:
        raise _Unknown("no solution has a speedup on that workload")
    stated = list(claim.stated)
    computed = f"{_winners(list(best.winners), names)} ({times(best.speedup)})"
    return set(stated) == set(best.winners), _winners(stated, names), computed


def _wins(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    solution, total = claim.subject["solution"], len(record.workloads)
    bests = [best for workload in workload_ids(record) if (best := best_on(record, workload))]
    mine = [best for best in bests if solution in best.winners]
    tied = sum(best.tie for best in mine)
    stated = f"{int(claim.stated)} of {total}"
    if claim.metric == "tied":
        return int(claim.stated) == tied, stated, f"{tied} of {total}"
    lost = [
        f"{names.workload_at(best.workload)} to {_winners(list(best.winners), names)}"
        for best in bests
        if solution not in best.winners
    ]
    computed = f"{len(mine)} of {total}: {len(mine) - tied} alone, {tied} tied"
    if lost:
        computed += f"; loses {listed(lost)}"
    return int(claim.stated) == len(mine), stated, computed


def _compared(record: RunRecord, claim: Claim) -> Comparison:
    low = claim.subject.get("min_tokens", 0)
    high = claim.subject.get("max_tokens", float("inf"))
    ids = workload_ids(record, lambda workload: low <= workload.seq_len <= high)
    found = compare(record, claim.subject["solution"], claim.subject["other"], ids)
    if found is None:
        raise _Unknown("the two solutions have no such workload in common")
    return found


def _average_ratio(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    found = _compared(record, claim)
    stated = float(claim.stated)
    computed = f"{times(found.mean_of_ratios)} as the mean of per-workload ratios"
    if not _same(found.mean_of_ratios, stated) and _same(found.ratio_of_averages, stated):
        computed += f"; {times(stated)} is the ratio of the averages"
    return _same(found.mean_of_ratios, stated), times(stated), computed


def _ratio_range(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    found = _compared(record, claim)
    low, high = (float(end) for end in claim.stated)
    computed = (
        f"{span(found.lowest.value, found.highest.value, 'x')}, "
        f"lowest at {names.workload_at(found.lowest.workload)}, "
        f"highest at {names.workload_at(found.highest.workload)}"
    )
    holds = _same(found.lowest.value, low) and _same(found.highest.value, high)
    return holds, span(low, high, "x"), computed


def _gain_percent(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    found = _compared(record, claim)
    low, high = (float(end) for end in claim.stated)
    gains = [int(rounded((ratio.value - 1) * 100, 0)) for ratio in found.ratios]
    inside = sum(low <= gain <= high for gain in gains)
    of_all = f"{inside} of {count(len(gains), 'workload')}"
    computed = f"{min(gains)}% to {max(gains)}%; {of_all} within the stated range"
    return inside == len(gains), f"{plain(low, 0)}% to {plain(high, 0)}%", computed


def _largest_ratio_at(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    highest = _compared(record, claim).highest
    computed = f"{names.workload_at(highest.workload)} with {times(highest.value)}"
    return highest.workload == claim.stated, names.workload(claim.stated), computed


def _order(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    ranked = [entry.solution for entry in ranking(record).ranked]
    stated = list(claim.stated)
    if not set(stated) <= set(ranked):
        raise _Unknown("not all of these solutions have a comparable average in the record")
    computed = [name for name in ranked if name in stated]
    return (
        computed == stated,
        " > ".join(names.label(name) for name in stated),
        " > ".join(f"{names.label(name)} ({times(_average(record, name))})" for name in computed),
    )


def _close_averages(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    first = _average(record, claim.subject["solution"])
    second = _average(record, claim.subject["other"])
    gap = max(first, second) / min(first, second) - 1
    words = {True: "about equal", False: "not equal"}
    close = gap <= CLOSE
    computed = f"{times(first)} and {times(second)}, {plain(gap * 100, 1)}% apart"
    return close == bool(claim.stated), words[bool(claim.stated)], computed


def _share_of_stated(record: RunRecord, claim: Claim, names: Names) -> _Outcome:
    share = _average(record, claim.subject["solution"]) / float(claim.subject["average"])
    return _same(share, claim.stated), plain(float(claim.stated)), plain(share)


_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("average", "small_average", "large_average", "min", "max"), _statistic),
    "best": _best,
    "best_or_tied": _wins,
    "tied": _wins,
    "average_ratio": _average_ratio,
    "ratio_range": _ratio_range,
    "gain_percent": _gain_percent,
    "largest_ratio_at": _largest_ratio_at,
    "order": _order,
    "close_averages": _close_averages,
    "share_of_stated": _share_of_stated,
}
