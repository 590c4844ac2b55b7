"""Builds what a report shows from a run record alone.

Every number and sentence in it is computed here, in harness.stats or in harness.report.sentences.
"""

from statistics import median
from typing import Literal

from harness.credible import credible
from harness.grid import Grid, grid_of
from harness.noise import Interval, median_interval
from harness.outliers import outliers
from harness.record import Cell, GpuState, RunRecord, SolutionInfo, Status, WorkloadInfo
from harness.report import sentences
from harness.report.claims import CheckedClaim, check_claims
from harness.report.model import (
    BucketView,
    CellView,
    ClaimsView,
    ComparisonRow,
    Correctness,
    Failure,
    RankRow,
    Report,
    RowView,
    SummaryRow,
)
from harness.report.names import Names
from harness.report.numbers import worst_error
from harness.report.verification import build as build_verification
from harness.roofline import floor_of, ratio_to_floor
from harness.stats import (
    Mean,
    best_on,
    buckets,
    by_tokens,
    comparable,
    compare,
    is_large,
    is_small,
    leaders,
    ranking,
    rounded,
    solution_stats,
    speedups,
    workload_ids,
)

BASELINE_PREFIX = "flashinfer_moe"
"""Solutions whose name or label begins so are the flashinfer baseline."""


def build_report(record: RunRecord) -> Report:
    """Compute everything that a report of `record` shows."""
    record, doubts = credible(record)
    names = Names(record)
    correctness_only = record.backend == "cpu"
    grid = grid_of(record)
    rows = tuple(_row(record, workload, grid, names) for workload in by_tokens(record))
    labels = tuple(names.label(solution.name) for solution in record.solutions)
    ranks = ranking(record)
    measured = not correctness_only and any(
        speedups(record, solution.name) for solution in record.solutions
    )
    several = len(record.solutions) > 1
    best = ranks.ranked[0].solution if measured and several and ranks.ranked else None
    commands = record.benchmark_commands
    return Report(
        title=sentences.title(record, labels),
        partial=sentences.partial(record, grid, names),
        no_speed=sentences.no_speed(record, measured),
        gpu=sentences.gpu(record),
        definition=record.definition.name,
        tolerance=sentences.tolerance(record),
        config=sentences.config(record),
        dataset=sentences.dataset(record),
        timer=record.timer if measured else None,
        benchmark_command=commands[0] if commands else [],
        batches=len(commands),
        command=record.command,
        solutions=tuple(record.solutions),
        labels=labels,
        workload_heading=names.workload_heading,
        rows=rows,
        pass_sentence=sentences.passes(record, grid, names),
        correctness_only=correctness_only,
        summary=_summary(record, rows) if measured else (),
        best=names.label(best) if best else None,
        comparisons=_comparisons(record, best, names) if best else (),
        buckets=_buckets(record, best, names) if measured else (),
        ranking_line=sentences.ranking_line(ranks, names) if best else None,
        ranks=tuple(RankRow(names.label(r.solution), r) for r in ranks.entries) if best else (),
        ranking_sentences=sentences.ranking(record, ranks, names) if measured and several else (),
        baseline_sentences=_baseline(record, names) if measured else (),
        ceilings=sentences.ceilings(record),
        floor_sentences=(
            *sentences.floors(
                [(one, [row.cells[i].floor_ratio for row in rows]) for i, one in enumerate(labels)]
            ),
            *sentences.outliers(outliers(record), record.repeats, names),
        ),
        correctness=tuple(_correctness(record, s, grid, names) for s in record.solutions),
        failures=_failures(record, grid, names),
        notes=tuple(
            (label, solution.notes)
            for label, solution in zip(labels, record.solutions, strict=True)
            if solution.notes.strip()
        ),
        warnings=(*record.warnings, *doubts),
        environment=_environment(record, names),
        claims=_claims(record),
        run_id=record.run_id,
        reproduce=without_run(record.command) or _bench_command(record, labels),
        checkout=sentences.checkout(record.environment.git_commit, record.environment.git_dirty),
        sources_sentence=sentences.sources(
            record.environment.git_commit, record.environment.git_dirty
        ),
        real_dataset=record.dataset.kind == "real",
        required_matched_ratio=record.profile.required_matched_ratio,
        repeats=record.repeats,
        verification=build_verification(record, names),
        resumptions=sentences.resumptions(record),
    )


def _row(record: RunRecord, workload: WorkloadInfo, grid: Grid, names: Names) -> RowView:
    timed = record.backend != "cpu"
    best = best_on(record, workload.id) if timed else None
    winners = best.winners if best else ()
    floor = floor_of(record.definition, workload, record.ceilings)

    def view(solution: str) -> CellView:
        cell = grid[solution, workload.id]
        passed = timed and cell.status is Status.PASSED
        latency = cell.latency_ms if passed else None
        return CellView(
            status=cell.status,
            speedup=speedups(record, solution).get(workload.id) if timed else None,
            best=len(record.solutions) > 1 and solution in winners,
            latency_us=None if latency is None else latency * 1e3,
            interval_us=_interval(cell) if latency is not None else None,
            floor_ratio=ratio_to_floor(latency, floor),
            matched_ratio=cell.matched_ratio,
            max_abs_error=cell.max_abs_error,
            max_rel_error=cell.max_rel_error,
            reason=cell.reason,
            log_tail=cell.log_tail,
        )

    return RowView(
        id=workload.id,
        short_id=names.workload(workload.id),
        seq_len=workload.seq_len,
        local_expert_offset=workload.local_expert_offset,
        cells=tuple(view(solution.name) for solution in record.solutions),
        winners=tuple(names.label(name) for name in winners),
        floor=floor if timed else None,
    )


def _interval(cell: Cell) -> Interval | None:
    return median_interval([latency * 1e3 for latency in cell.repeat_latencies_ms])


def _summary(record: RunRecord, rows: tuple[RowView, ...]) -> tuple[SummaryRow, ...]:
    stats = [solution_stats(record, solution.name) for solution in record.solutions]
    means = [
        ("Average", [s.average for s in stats], workload_ids(record)),
        ("Small-batch avg (T<=901)", [s.small for s in stats], workload_ids(record, is_small)),
        ("Large-batch avg (T>10K)", [s.large for s in stats], workload_ids(record, is_large)),
    ]
    none = (False,) * len(stats)

    def marks(best: tuple[str, ...]) -> tuple[bool, ...]:
        return tuple(s.solution in best for s in stats) if len(stats) > 1 else none

    found = [
        SummaryRow(name, tuple(values), marks(leaders(record, ids)))
        for name, values, ids in means
        if any(value.count for value in values)
    ]
    for name, extremes in (("Min", [s.min for s in stats]), ("Max", [s.max for s in stats])):
        values = tuple(
            Mean(value, s.average.count, s.average.total)
            for value, s in zip(extremes, stats, strict=True)
        )
        found.append(SummaryRow(name, values, none))
    ratios = [
        {row.id: ratio for row in rows if (ratio := row.cells[i].floor_ratio) is not None}
        for i in range(len(stats))
    ]
    if any(ratios):
        by_name = {s.solution: r for s, r in zip(stats, ratios, strict=True)}
        medians = {name: median(r.values()) for name, r in by_name.items() if r}
        full = comparable({name: set(r) for name, r in by_name.items()})
        least = min((rounded(medians[name]) for name in full), default=None)
        best = tuple(name for name in full if rounded(medians[name]) == least)
        values = tuple(Mean(medians.get(n), len(r), len(rows)) for n, r in by_name.items())
        found.append(SummaryRow("Median latency / floor", values, marks(best)))
    return tuple(found)


def _comparisons(record: RunRecord, best: str, names: Names) -> tuple[ComparisonRow, ...]:
    return tuple(
        ComparisonRow(
            other=names.label(solution.name),
            comparison=found,
            lowest_at=names.workload_at(found.lowest.workload),
            highest_at=names.workload_at(found.highest.workload),
        )
        for solution in record.solutions
        if solution.name != best and (found := compare(record, best, solution.name))
    )


def _buckets(record: RunRecord, best: str | None, names: Names) -> tuple[BucketView, ...]:
    return tuple(
        BucketView(
            bucket.label, len(bucket.workloads), sentences.bucket(record, bucket, best, names)
        )
        for bucket in buckets(record)
    )


def _baseline(record: RunRecord, names: Names) -> tuple[str, ...]:
    def is_baseline(solution: SolutionInfo) -> bool:
        return any(n.startswith(BASELINE_PREFIX) for n in (solution.name, solution.label))

    def average(solution: SolutionInfo) -> float:
        return solution_stats(record, solution.name).average.value or 0.0

    timed = [solution for solution in record.solutions if speedups(record, solution.name)]
    baselines = [solution for solution in timed if is_baseline(solution)]
    if not baselines:
        return ()
    baseline = max(baselines, key=average)
    ours = {solution.name for solution in timed if not is_baseline(solution)}
    ranked = [entry.solution for entry in ranking(record).entries if entry.solution in ours]
    found = compare(record, ranked[0], baseline.name) if ranked else None
    return sentences.baseline(found, names) if found else ()


def _correctness(
    record: RunRecord, solution: SolutionInfo, grid: Grid, names: Names
) -> Correctness:
    cells = [grid[solution.name, workload.id] for workload in record.workloads]
    ratios = [cell.matched_ratio for cell in cells if cell.matched_ratio is not None]
    return Correctness(
        label=names.label(solution.name),
        passed=sum(cell.status is Status.PASSED for cell in cells),
        total=len(cells),
        verdict=_verdict({cell.status for cell in cells}),
        matched_ratio=min(ratios, default=None),
        max_abs_error=worst_error(cell.max_abs_error for cell in cells),
        max_rel_error=worst_error(cell.max_rel_error for cell in cells),
    )


def _verdict(statuses: set[Status]) -> Literal["PASS", "FAIL", "SKIPPED", "INCOMPLETE"]:
    if statuses == {Status.PASSED}:
        return "PASS"
    if statuses == {Status.SKIPPED}:
        return "SKIPPED"
    return "FAIL" if statuses - {Status.PASSED, Status.SKIPPED, Status.MISSING} else "INCOMPLETE"


def _failures(record: RunRecord, grid: Grid, names: Names) -> tuple[Failure, ...]:
    groups: dict[tuple[str, Status, str | None], list[Cell]] = {}
    for cell in grid.values():
        if cell.status is not Status.PASSED:
            groups.setdefault((cell.solution, cell.status, cell.reason), []).append(cell)

    def failure(solution: str, status: Status, reason: str | None, cells: list[Cell]) -> Failure:
        logged = next((cell for cell in cells if cell.log_tail and cell.log_tail.strip()), None)
        ratios = [cell.matched_ratio for cell in cells if cell.matched_ratio is not None]
        return Failure(
            label=names.label(solution),
            status=status,
            workloads=tuple(names.workload(cell.workload) for cell in cells),
            total=len(record.workloads),
            reason=reason,
            matched_ratio=min(ratios, default=None),
            max_abs_error=worst_error(cell.max_abs_error for cell in cells),
            max_rel_error=worst_error(cell.max_rel_error for cell in cells),
            log_tail=logged.log_tail if logged else None,
            log_workload=names.workload(logged.workload) if logged else None,
        )

    return tuple(failure(*key, cells) for key, cells in groups.items())


def _claims(record: RunRecord) -> ClaimsView | None:
    if record.transcription is None:
        return None
    checked = check_claims(record)

    def those(verdict: str) -> tuple[CheckedClaim, ...]:
        return tuple(claim for claim in checked if claim.verdict == verdict)

    confirmed, contradicted = those("confirmed"), those("contradicted")
    return ClaimsView(
        sentence=sentences.claims(record.transcription.source, len(confirmed), len(contradicted)),
        confirmed=len(confirmed),
        contradicted=contradicted,
        not_checkable=those("not checkable"),
    )


def without_run(command: list[str]) -> list[str]:
    """A command line without the name of its run, which is taken by now."""
    found: list[str] = []
    for before, word in zip(["", *command], command, strict=False):
        if before != "--run" and word != "--run" and not word.startswith(("--run=", "RUN=")):
            found.append(word)
    return found


def _bench_command(record: RunRecord, labels: tuple[str, ...]) -> list[str]:
    return ["make", "bench", f"SOLUTIONS={' '.join(labels)}", f"PROFILE={record.profile_name}"]


def _environment(record: RunRecord, names: Names) -> tuple[tuple[str, str], ...]:
    env, gpu = record.environment, record.environment.gpu
    found: list[tuple[str, str | None]] = []
    if gpu:
        found += [
            ("GPU", gpu.name),
            ("GPU UUID", gpu.uuid),
            ("Compute capability", gpu.compute_capability),
            ("GPU memory", None if gpu.memory_mib is None else f"{gpu.memory_mib} MiB"),
            ("Driver", gpu.driver),
            ("GPU before", _state(gpu.before)),
            ("GPU after", _state(gpu.after)),
        ]
    found += [("CPU", env.cpu), ("Host", env.host)]
    found += [
        (package, version or "no version found")
        for package, version in sorted(env.versions.items())
    ]
    if record.backend != "document":
        found.append(("Commit", sentences.commit(env.git_commit, env.git_dirty)))
    found += [("Started", record.started), ("Ended", record.ended)]
    found += [
        (f"Source of {names.label(solution.name)}", f"sha256 {solution.source_hash[:12]}")
        for solution in record.solutions
        if solution.source_hash
    ]
    return tuple((key, value) for key, value in found if value)


def _state(state: GpuState | None) -> str | None:
    """Clocks in words; None when nothing is known."""
    if state is None:
        return None
    parts = [
        None if state.sm_clock_mhz is None else f"SM clock {state.sm_clock_mhz} MHz",
        None if state.memory_clock_mhz is None else f"memory clock {state.memory_clock_mhz} MHz",
        None if state.temperature_c is None else f"{state.temperature_c} °C",
        None if state.power_w is None else f"{state.power_w:.0f} W",
        f"throttled by {', '.join(state.throttle_reasons)}"
        if state.throttle_reasons
        else "not throttled",
        None if state.other_processes is None else f"other processes: {state.other_processes}",
    ]
    return ", ".join(part for part in parts if part)
