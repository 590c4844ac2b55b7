"""The sentences of a report, in plain text without markup, each computed from the record."""

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.noise import LEAST
from harness.outliers import LONGER, Outlier
from harness.record import Cell, RunRecord, Status
from harness.report.names import Names
from harness.report.numbers import count, listed, microseconds, plain, shortened, span, times
from harness.stats import (
    CLOSE,
    Best,
    Bucket,
    Comparison,
    Mean,
    Ranking,
    best_on,
    compare,
    leaders,
    mean_speedup,
    rounded,
    workload_ids,
)

Grid = Mapping[tuple[str, str], Cell]
MOST_IN_TITLE = 7
"""Solutions that a title names; of more, the table of solutions has the names."""


def title(record: RunRecord, labels: Sequence[str]) -> str:
    """'4-Way: a vs b vs c vs d — 2026-02-02'; a single solution has no N, and of many only the N stands there."""
    what = " vs ".join(labels) or record.definition.name
    if len(labels) > MOST_IN_TITLE:
        what = f"{len(labels)}-Way comparison"
    elif len(labels) > 1:
        what = f"{len(labels)}-Way: {what}"
    return f"{what} — {record.started[:10]}"


def gpu(record: RunRecord) -> str:
    """'NVIDIA B200 (SM100)'."""
    there = record.environment.gpu
    if there is None:
        return "none (CPU backend)" if record.backend == "cpu" else "not recorded"
    if not there.compute_capability:
        return there.name
    return f"{there.name} (SM{there.compute_capability.replace('.', '')})"


def tolerance(record: RunRecord) -> str:
    """'rtol=0.2, atol=0.1, required-matched-ratio=0.85'."""
    p = record.profile
    return f"rtol={p.rtol:g}, atol={p.atol:g}, required-matched-ratio={p.required_matched_ratio:g}"


def config(record: RunRecord) -> str:
    """'seed (warmup=5, iterations=20, num_trials=3, timeout=600 s, persistent runner)'.

    A correctness-only run times nothing, so only its trials and timeout are named.
    """
    p = record.profile
    timeout = f"timeout={p.timeout} s"
    repeats = f"warmup={p.warmup_runs}, iterations={p.iterations}, num_trials={p.num_trials}"
    if record.backend == "document":
        return f"{record.profile_name} ({repeats}, {timeout})"
    if record.backend == "cpu":
        return f"{record.profile_name} ({timeout})"
    often = f", {record.repeats} repetitions in rotated order" if record.repeats > 1 else ""
    return f"{record.profile_name} ({repeats}, {timeout}, {p.runner} runner{often})"


def dataset(record: RunRecord) -> str:
    """Where the workloads came from; a synthetic dataset is called that."""
    info = record.dataset
    size = count(len(record.workloads), "workload")
    digest = f", hash {info.hash[:12]}" if info.hash else ""
    if info.kind == "synthetic":
        seed = "" if info.seed is None else f", seed {info.seed}"
        return (
            f"synthetic, suite {info.suite}, {size}{seed}{digest}. "
            "The routing was generated for this project and is that of no published dataset"
        )
    if info.kind == "real":
        return f"real FlashInfer-Bench dataset, suite {info.suite}, {size}{digest}"
    return f"that of the source document ({size}), which this record does not hold"


def partial(record: RunRecord, grid: Grid, names: Names) -> str | None:
    """What an interrupted run lacks; None for a whole one."""
    if not record.partial:
        return None
    missing = Counter(cell.solution for cell in grid.values() if cell.status is Status.MISSING)
    if not missing:
        passed = [cell for cell in grid.values() if cell.status is Status.PASSED]
        done = sorted(len(cell.repeat_latencies_ms) or 1 for cell in passed)
        if done and done[0] < record.repeats:
            times = f"{done[0]}" if done[0] == done[-1] else f"{done[0]} to {done[-1]}"
            return f"Partial record: the run was interrupted. No cell is missing, but of {record.repeats} repetitions each has {times}."
        return "Partial record: the run was interrupted after its last cell; no cell is missing."
    per_solution = listed(
        f"{number} of {len(record.workloads)} of {names.label(name)}"
        for name, number in missing.items()
    )
    return (
        f"Partial record: the run was interrupted. {sum(missing.values())} of "
        f"{count(len(grid), 'cell')} "
        f"are missing: {per_solution}. Statistics cover the cells that are here."
    )


def no_speed(record: RunRecord, measured: bool) -> str | None:
    """Why a report has no speedups; None when it has."""
    if record.backend == "cpu":
        return (
            "No speed was measured: this run used the CPU backend, which checks results against "
            "the reference and "
            "times nothing."
        )
    if measured:
        return None
    if record.verification and not record.benchmark_commands:
        return "No speed was measured: verification alone times nothing for a comparison."
    return "No speed was measured: no cell passed with a speedup."


def passes(record: RunRecord, grid: Grid, names: Names) -> str:
    """'All 19 workloads pass for all 4 solutions.', or who passed how many."""
    workloads, solutions = len(record.workloads), len(record.solutions)
    if not grid:
        return "The record has no cell."
    if all(cell.status is Status.PASSED for cell in grid.values()):
        which = "The workload passes" if workloads == 1 else f"All {workloads} workloads pass"
        who = (
            names.label(record.solutions[0].name)
            if solutions == 1
            else f"all {solutions} solutions"
        )
        return f"{which} for {who}."
    per_solution = []
    for solution in record.solutions:
        statuses = Counter(cell.status for key, cell in grid.items() if key[0] == solution.name)
        others = ", ".join(
            f"{number} {status.value}"
            for status, number in statuses.items()
            if status is not Status.PASSED
        )
        text = f"{names.label(solution.name)} {statuses[Status.PASSED]} of {workloads}"
        per_solution.append(f"{text} ({others})" if others else text)
    passed = sum(cell.status is Status.PASSED for cell in grid.values())
    return f"{passed} of {count(len(grid), 'cell')} pass: {', '.join(per_solution)}."


def resumptions(record: RunRecord) -> tuple[str, ...]:
    """One sentence for each time that the run was taken up again."""
    found = []
    for entry in record.resumptions:
        dropped = (
            f"; run again because their sources had changed: {listed(entry.dropped)}"
            if entry.dropped
            else ""
        )
        found.append(
            f"Resumed at {entry.started} with {count(entry.kept_cells, 'finished cell')}{dropped}."
        )
    return tuple(found)


def ceilings(record: RunRecord) -> str | None:
    """What the GPU can do at best; None when it was not measured."""
    there = record.ceilings
    if there is None:
        return None
    return (
        f"Ceilings of this GPU: {plain(there.read_gb_per_s, 0)} GB/s read, "
        f"{plain(there.fp8_tflop_per_s, 0)} TFLOP/s dense FP8 ({there.method})."
    )


def floors(ratios: Sequence[tuple[str, Sequence[float | None]]]) -> tuple[str, ...]:
    """What the ratios of latency to floor say: the range of each solution, and doubts where one is
    under 1."""
    there = [(label, [r for r in values if r is not None]) for label, values in ratios]
    there = [(label, values) for label, values in there if values]
    if not there:
        return ()
    ranges = ", ".join(f"{label} {span(min(v), max(v), 'x')}" for label, v in there)
    found = [f"Latency over floor, lowest to highest: {ranges}."]
    under = sum(rounded(r) < 1 for _, values in there for r in values)
    if under:
        found.append(
            f"{count(under, 'cell')} {'is' if under == 1 else 'are'} faster than the floor: data was "
            "served from cache, or a count or ceiling is wrong. Measure the ceilings again before "
            "trusting the ratios."
        )
    return tuple(found)


def outliers(found: Sequence[Outlier], repeats: int, names: Names) -> tuple[str, ...]:
    """Which cells took longer than a larger workload, and what that may mean after so many repetitions."""
    if not found:
        return ()
    cells = shortened(
        (
            f"{names.label(one.solution)} {microseconds(one.latency_us)} us on {names.workload_at(one.workload)} "
            f"against {microseconds(one.larger_latency_us)} us on {names.workload_at(one.larger)}"
            for one in found
        ),
        6,
    )
    why = (
        "That is noise, such as a busy host, or a solution's poor choice for a size"
        if repeats < LEAST
        else f"These are medians of {repeats} repetitions, so a poor choice for a size is likelier than noise"
    )
    return (
        f"{count(len(found), 'cell')} took at least {LONGER:g} times as long as the same solution on a workload with no "
        f"fewer tokens, local pairs and active experts: {cells}. {why}; the averages contain it.",
    )


def bucket(record: RunRecord, part: Bucket, best: str | None, names: Names) -> str:
    """Who leads one bucket and by how much; `best` is the solution with the highest average
    overall."""
    means = {s.name: mean_speedup(record, s.name, part.ids) for s in record.solutions}
    timed = {name: mean for name, mean in means.items() if mean.value is not None}
    if not timed:
        return "no solution has a speedup here."
    if len(record.solutions) == 1:
        (mean,) = timed.values()
        return f"average {times(mean.value)}{_coverage(mean.count, mean.total)}."
    first = leaders(record, part.ids)
    if not first:
        text = "the averages are not comparable: the solutions passed different workloads"
    else:
        mean = means[first[0]]
        who = listed(names.label(name) for name in first)
        has = "have" if len(first) > 1 else "has"
        value = f"{times(mean.value or 0.0)}{_coverage(mean.count, mean.total)}"
        text = f"{who} {has} the highest average, {value}"
    bests = [found for workload in part.ids if (found := best_on(record, workload))]
    if len(first) == 1 and all(found.tie and first[0] in found.winners for found in bests):
        text = _tied(means, first[0], bests, names)
    elif len(first) == 1:
        alone = sum(found.winners == first for found in bests)
        shared = sum(found.tie and first[0] in found.winners for found in bests)
        ties = f" and ties on {shared}" if shared else ""
        text += f", and is best on {alone} of {len(part.ids)}{ties}"
    text += "."
    if best is None:
        return text
    ratios = []
    for solution in record.solutions:
        found = compare(record, best, solution.name, part.ids) if solution.name != best else None
        if found:
            over = _coverage(len(found.ratios), found.total)
            ratio = span(found.lowest.value, found.highest.value, "x")
            ratios.append(f"{ratio} that of {names.label(solution.name)}{over}")
    if ratios:
        text += f" The speedup of {names.label(best)} is {listed(ratios)}."
    return text


def _tied(means: Mapping[str, Mean], leader: str, bests: Sequence[Best], names: Names) -> str:
    """A leader that ties on every workload of a bucket leads by no more than noise or rounding."""
    everywhere = set.intersection(*(set(found.winners) for found in bests))
    which = "the only workload" if len(bests) == 1 else f"each of the {len(bests)} workloads"
    if everywhere == {leader}:
        value = times(means[leader].value or 0.0)
        return f"{names.label(leader)} has the highest average, {value}, and ties with another on {which}"
    tied = [name for name in means if name in everywhere]
    values = listed(times(means[name].value or 0.0) for name in tied)
    return f"{listed(map(names.label, tied))} tie on {which}, with averages of {values}"


def ranking_line(ranks: Ranking, names: Names) -> str | None:
    """'a > b ≈ c > d': neighbours within 5% are joined by ≈, and by = where displayed alike.

    None when fewer than two are ranked.
    """
    if len(ranks.ranked) < 2:
        return None
    text = ""
    before: float | None = None
    for entry in ranks.ranked:
        value = entry.average.value or 0.0
        if before is not None:
            alike = rounded(before) == rounded(value)
            text += " = " if alike else " ≈ " if before / value - 1 <= CLOSE else " > "
        text += names.label(entry.solution)
        before = value
    return text


def ranking(record: RunRecord, ranks: Ranking, names: Names) -> tuple[str, ...]:
    """How the ranking came about, and who is best where."""
    if not ranks.ranked:
        return ("No ranking: no workload was passed by every solution that passed any.",)
    found = []
    if ranks.interrupted:
        found.append(
            "The run was interrupted; the averages are over the "
            f"{count(len(ranks.workloads), 'workload')} that every solution finished."
        )
    if ranks.common_only:
        found.append(
            f"No solution passed every workload that others passed, so the averages are over the "
            f"{count(len(ranks.workloads), 'workload')} that all of them passed."
        )
    total = len(record.workloads)
    first, *rest = ranks.ranked
    ties = f" and ties on {first.ties}" if first.ties else ""
    lost = [
        found_best
        for workload in workload_ids(record)
        if (found_best := best_on(record, workload)) and first.solution not in found_best.winners
    ]
    label = names.label(first.solution)
    found.append(f"{label} is best on {first.wins} of {count(total, 'workload')}{ties}.")
    by_winner: dict[tuple[str, ...], list[str]] = {}
    for best in lost:
        by_winner.setdefault(best.winners, []).append(names.workload_at(best.workload))
    for winners, workloads in by_winner.items():
        who = listed(names.label(name) for name in winners)
        verb = "tie as best" if len(winners) > 1 else "is best"
        found.append(f"{who} {verb} on {shortened(workloads)}.")
    if rest:
        second = rest[0]
        ratio = (first.average.value or 0.0) / (second.average.value or 1.0)
        if rounded(first.average.value or 0.0) != rounded(second.average.value or 0.0):
            found.append(
                f"The average of {label} is {times(ratio)} that of the next, "
                f"{names.label(second.solution)}."
            )
    unranked = [entry for entry in ranks.entries if entry.position is None]
    for entry in unranked:
        found.append(
            f"{names.label(entry.solution)} is not ranked: it has a speedup on "
            f"{entry.average.count} of "
            f"{count(total, 'workload')}."
        )
    return tuple(found)


def baseline(found: Comparison, names: Names) -> tuple[str, ...]:
    """The best other solution against the flashinfer baseline."""
    ours, theirs = names.label(found.solution), names.label(found.other)
    ratio = found.ratio_of_averages
    over = count(len(found.ratios), "common workload")
    gap = plain(abs(ratio - 1) * 100, 1)
    word = "ahead of" if ratio > 1 else "behind"
    faster = sum(rounded(r.value) > 1 for r in found.ratios)
    return (
        f"{ours} is the best other solution. Over {over} its average speedup is {times(ratio)} "
        f"that of {theirs} "
        f"(ratio of averages), {gap}% {word} it; the mean of per-workload ratios is "
        f"{times(found.mean_of_ratios)}.",
        f"The ratio runs from {times(found.lowest.value)} at "
        f"{names.workload_at(found.lowest.workload)} to "
        f"{times(found.highest.value)} at {names.workload_at(found.highest.workload)}; {ours} is "
        f"faster on {faster} of "
        f"{len(found.ratios)}.",
    )


def claims(source: str, confirmed: int, contradicted: int) -> str:
    """How many checkable statements of a transcribed document its own table bears out."""
    checkable = count(confirmed + contradicted, "statement")
    return (
        f"This record was transcribed from {source}. Of {checkable} that its table can check, "
        f"{confirmed} "
        f"{'agrees' if confirmed == 1 else 'agree'} with it and {contradicted} "
        f"{'does' if contradicted == 1 else 'do'} not."
    )


def _coverage(number: int, total: int) -> str:
    """' over 17 of 19', or nothing when none is lacking."""
    return "" if number == total else f" over {number} of {total}"


def commit(commit: str | None, dirty: bool | None) -> str:
    """The commit and the state of the checkout; a state that is not known is not a clean one."""
    if commit is None:
        return "not known"
    if dirty is None:
        return f"{commit}, whether with uncommitted changes is not known"
    return f"{commit} with uncommitted changes" if dirty else commit


def checkout(commit: str | None, dirty: bool | None) -> str | None:
    """The line that gets the sources back; None where a checkout is known not to."""
    if commit is None or dirty:
        return None
    return f"git checkout {commit}" + ("" if dirty is False else "  # if nothing was uncommitted")


def sources(commit: str | None, dirty: bool | None) -> str | None:
    """What identifies the sources where the commit may not; None where it does."""
    if commit is None or dirty is False:
        return None
    doubt = (
        f"The run was made from commit {commit} with uncommitted changes, which a checkout does not bring back."
        if dirty
        else f"Whether commit {commit} had uncommitted changes is not known, so a checkout may not bring everything back."
    )
    return (
        f"{doubt} The sources that ran are identified by their hashes under Environment; `python -m harness history VARIANT` "
        "says which records are of the sources at hand."
    )
