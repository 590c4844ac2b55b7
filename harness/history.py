"""One solution over all records: what it reached where, and with which sources."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.comparable import MUST_AGREE
from harness.credible import credible
from harness.errors import HarnessError
from harness.manifest import Variant
from harness.record import RECORD_NAME, RunRecord, SolutionInfo, Status, load_record, recorded
from harness.report.numbers import times
from harness.report.series import Chart, Point, Series
from harness.report.view import build_report
from harness.stats import by_tokens, solution_stats
from harness.tables import Column, Table, columns, spared, table, yes_or_no

Place = tuple[object, ...]
"""What must be alike for speedups to stand in one line: the values of compare's MUST_AGREE."""


@dataclass(frozen=True)
class Entry:
    """One record that has the solution."""

    record: RunRecord
    solution: SolutionInfo


def find_entries(results: Path, name: str, gpu: str | None = None) -> tuple[list[Entry], list[str]]:
    """Records under `results` with a solution of that folder, label or name, oldest first, and what is left out of them.

    Left out are records that cannot be read, and numbers that cannot have been measured.

    Args:
        gpu: only records of GPUs whose name contains this, in any case.

    Raises:
        HarnessError: no record has it.
    """
    entries, left_out = [], []
    known: set[str] = set()
    gpus: set[str] = set()
    for folder in recorded(results):
        try:
            record = load_record(folder)
        except HarnessError as error:
            left_out.append(str(error))
            continue
        record, doubts = credible(record)
        known |= {solution.label for solution in record.solutions}
        there = gpu_of(record)
        gpus.add(there)
        if gpu and gpu.lower() not in there.lower():
            continue
        for solution in record.solutions:
            if name in (solution.name, solution.label, solution.folder):
                entries.append(Entry(record, solution))
                mine = (f" {solution.name} ", "ceilings")
                left_out += [
                    f"{folder / RECORD_NAME}: {d}"
                    for d in doubts
                    if any(word in d for word in mine)
                ]
    if gpu and not any(gpu.lower() in there.lower() for there in gpus):
        raise HarnessError(
            f"--gpu: no record under {results} is of a GPU like '{gpu}'; there are: {', '.join(sorted(gpus)) or 'none'}"
        )
    if not entries:
        on = f" of a GPU like '{gpu}'" if gpu else ""
        raise HarnessError(
            f"VARIANT: no record{on} under {results} has '{name}'; there are: {', '.join(sorted(known)) or 'none'}"
        )
    return sorted(entries, key=lambda entry: entry.record.started), left_out


def gpu_of(record: RunRecord) -> str:
    """The GPU's name, or 'CPU'."""
    gpu = record.environment.gpu
    return gpu.name if gpu else "CPU" if record.backend == "cpu" else "not recorded"


def dataset_of(record: RunRecord) -> str:
    """Kind, suite and the beginning of the hash: 'synthetic published d570fdff8839'."""
    info = record.dataset
    return f"{info.kind} {info.suite}" + (f" {info.hash[:12]}" if info.hash else "")


def place_of(record: RunRecord) -> Place:
    """Where a record stands; only speedups of one place are drawn together, as only such records are compared."""
    return tuple(value(record) for value in MUST_AGREE.values())


def places(entries: list[Entry]) -> dict[Place, list[Entry]]:
    """The entries by place, in the order of the first of each."""
    found: dict[Place, list[Entry]] = {}
    for entry in entries:
        found.setdefault(place_of(entry.record), []).append(entry)
    return found


def history_table(entries: list[Entry], present: Variant | None) -> Table:
    """One row for each record.

    Args:
        present: the solution as it is in the working tree, to say which records are of other sources.
    """
    header = columns(
        ("run", "run"),
        ("started", "started"),
        ("gpu", "GPU"),
        ("dataset", "dataset"),
        ("profile", "profile"),
        ("source", "sources"),
        Column("present", "as now", yes_or_no),
        ("passed", "passed", str),
        ("workloads", "of", str),
        ("average", "average", times),
        ("small", "T<=901", times),
        ("large", "T>10K", times),
        ("floor_ratio", "median / floor", times),
    )
    header = spared(header, "source", "started", "present", "profile", "dataset")
    return table("history", header, [_row(entry, present) for entry in entries])


def _row(entry: Entry, present: Variant | None) -> list[object]:
    record, solution = entry.record, entry.solution
    digest = solution.source_hash
    stats = solution_stats(record, solution.name)
    cells = [cell for cell in record.cells if cell.solution == solution.name]
    as_now = None if present is None or digest is None else digest == present.source_hash()
    timed = record.backend != "cpu"
    return [
        record.run_id,
        record.started[:10],
        gpu_of(record),
        dataset_of(record),
        record.profile_name,
        digest and digest[:12],
        as_now,
        sum(cell.status is Status.PASSED for cell in cells),
        len(record.workloads),
        stats.average.value if timed else None,
        stats.small.value if timed else None,
        stats.large.value if timed else None,
        _median_floor_ratio(record, solution.name),
    ]


def _median_floor_ratio(record: RunRecord, solution: str) -> float | None:
    report = build_report(record)
    column = [s.name for s in record.solutions].index(solution)
    ratios = [row.cells[column].floor_ratio for row in report.rows]
    known = [ratio for ratio in ratios if ratio is not None]
    return median(known) if known else None


def history_chart(entries: list[Entry], label: str) -> Chart | None:
    """Speedup by workload, one line for each record of one place; None when none has a speedup."""
    workloads = {w.id: w for entry in entries for w in by_tokens(entry.record)}
    order = sorted(workloads.values(), key=lambda workload: (workload.seq_len, workload.id))
    position = {workload.id: index for index, workload in enumerate(order)}
    series = []
    for index, entry in enumerate(entries):
        cells = [
            cell
            for cell in entry.record.cells
            if cell.solution == entry.solution.name
            and cell.status is Status.PASSED
            and cell.speedup
        ]
        points = sorted(
            (
                Point(position[c.workload], c.speedup, _note(entry.record.run_id, c.speedup))
                for c in cells
                if c.speedup
            ),
            key=lambda point: point.x,
        )
        if points:
            series.append(Series(index, entry.record.run_id, tuple(points)))
    if not series:
        return None
    return Chart(
        name="history",
        title=title_of(entries[0].record, label),
        x_label="workload, by number of tokens T",
        y_label="speedup (x)",
        ticks=tuple(str(workload.seq_len) for workload in order),
        log_y=True,
        series=tuple(series),
        guide=None,
        alt=f"Speedup of {label} by workload in {', '.join(one.label for one in series)}.",
    )


def title_of(record: RunRecord, label: str) -> str:
    """What the chart of one place is called."""
    dataset = f"{record.dataset.kind} {record.dataset.suite} dataset"
    return f"{label} on {gpu_of(record)}, {dataset}, profile {record.profile_name}"


def apart_from(group: list[Entry], others: list[list[Entry]]) -> str | None:
    """Why a place has a chart of its own although that of another one is called alike; None where none is."""
    record = group[0].record
    twins = [o[0].record for o in others if title_of(o[0].record, "") == title_of(record, "")]
    if not twins:
        return None
    names = [n for n, value in MUST_AGREE.items() if value(record) != value(twins[0])]
    return f"Apart from the chart of {twins[0].run_id}: they differ in {', '.join(names)}"


def _note(run: str, speedup: float) -> str:
    return f"{run}: {times(speedup)}"


def remove_charts(folder: Path, keep: list[Path]) -> None:
    """Remove the numbered charts in `folder` that an earlier call made and this one did not."""
    for path in folder.glob("[0-9]*.svg"):
        if path not in keep and 'id="history-' in path.read_text(
            encoding="utf-8", errors="replace"
        ):
            path.unlink()
