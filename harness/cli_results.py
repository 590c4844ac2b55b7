"""Commands on records: report, compare, history."""

from pathlib import Path
from typing import Annotated

import typer

from harness import completion
from harness.compare import (
    THRESHOLD,
    cells_table,
    compare_records,
    remarks,
    require_comparable,
    summary_table,
    verdict,
)
from harness.errors import ExitCode, HarnessError
from harness.history import find_entries, history_chart, history_table, places
from harness.manifest import discover
from harness.paths import Paths, shown
from harness.record import load_record, write_atomically
from harness.report import write_report
from harness.report.charts import can_draw, draw
from harness.report.tables import tables_of
from harness.terminal import (
    AsCsv,
    AsJson,
    ResultsDir,
    SolutionsDir,
    console,
    paths_of,
    print_json,
    print_table,
    run_folder,
)


def report(
    run: Annotated[
        str,
        typer.Argument(
            help="A run folder, such as results/2026-02-02-b200.", autocompletion=completion.runs
        ),
    ],
    table: Annotated[
        str | None,
        typer.Option(help="Print this table instead; with --json or --csv, 'cells' by default."),
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    results_dir: ResultsDir = None,
) -> None:
    """Write a run's comparison.md, report.html and charts again, from its record alone; or print its tables.

    --json without --table prints all tables.

    Example: python -m harness report results/2026-02-02-b200

    Example: python -m harness report 2026-11-24-h200-all --csv > cells.csv
    """
    folder = run_folder(run, paths_of(results=results_dir).results)
    if table is None and not as_json and not as_csv:
        path = write_report(folder)
        charts = "" if can_draw() else "; no charts: matplotlib is not installed"
        console.print(f"Report: {shown(path)} and report.html{charts}", highlight=False)
        return
    tables = tables_of(load_record(folder))
    if as_json and table is None:
        print_json({name: one.records() for name, one in tables.items()})
        return
    name = table or "cells"
    if name not in tables:
        raise HarnessError(f"--table: {run} has no '{name}'; there are: {', '.join(tables)}")
    print_table(tables[name], as_json, as_csv)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders: the first is what the others are set against.",
            autocompletion=completion.runs,
        ),
    ],
    threshold: Annotated[
        float, typer.Option(help="Percent by which a cell may be slower before it counts.", min=0)
    ] = THRESHOLD * 100,
    allow_different: Annotated[
        bool,
        typer.Option(
            "--allow-different", help="Compare even if GPU, dataset, profile or timer differ."
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show cells that did not change.")
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    results_dir: ResultsDir = None,
) -> None:
    """Set records side by side; exits with 3 when something became slower or stopped passing.

    Ratios are of latencies, now / then: above 1 is slower. Where both sides have three or more repetitions, a
    change counts only if the intervals of the two medians do not overlap.

    Example: python -m harness compare 2026-11-24-h200 2026-11-24-h200-again --threshold 10
    """
    if len(runs) < 2:
        raise HarnessError(
            "compare: one record is nothing to compare; name two or more run folders"
        )
    results = paths_of(results=results_dir).results
    records = [load_record(run_folder(run, results)) for run in runs]
    if not allow_different:
        require_comparable(records)
    first, *others = records
    changes = [compare_records(first, other, threshold / 100) for other in others]
    verdicts = [verdict(change, threshold / 100) for change in changes]
    regressed = any(change.regressed for change in changes)
    if as_json:
        print_json(
            {
                "records": [record.run_id for record in records],
                "regressed": regressed,
                "verdicts": verdicts,
                "remarks": remarks(records),
                "summary": summary_table(changes).records(),
                "cells": cells_table(changes).records(),
            }
        )
    elif as_csv:
        print_table(cells_table(changes), as_csv=True)
    else:
        print_table(summary_table(changes))
        cells = cells_table(changes, only_changed=not everything)
        if cells.rows:
            print_table(cells)
        for change in changes:
            for run, labels in (
                (change.before, change.only_before),
                (change.after, change.only_after),
            ):
                if labels:
                    console.print(f"Only {run.run_id} has {', '.join(labels)}.", highlight=False)
        for line in [*remarks(records), *verdicts]:
            console.print(line, highlight=False, markup=False)
    raise typer.Exit(ExitCode.REGRESSION if regressed else ExitCode.OK)


def history(
    variant: Annotated[
        str,
        typer.Argument(
            help="Folder, label or full name of a solution.",
            autocompletion=completion.solution_names,
        ),
    ],
    gpu: Annotated[
        str | None, typer.Option(help="Only records of GPUs whose name contains this.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the charts [build/history/<variant>].")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    solutions_dir: SolutionsDir = None,
    results_dir: ResultsDir = None,
) -> None:
    """Show one solution over all records: a table, and a chart for each GPU, dataset and profile.

    Example: python -m harness history triton_v2 --gpu H200
    """
    paths = paths_of(solutions_dir, results_dir)
    entries, unread = find_entries(paths.results, variant, gpu)
    present = next((v for v in discover(paths.solutions) if variant in v.names), None)
    table = history_table(entries, present)
    if as_json or as_csv:
        print_table(table, as_json, as_csv)
        return
    print_table(table)
    for line in unread:
        console.print(f"Left out: {line}", highlight=False, markup=False)
    if not can_draw():
        console.print("No chart: matplotlib is not installed; run `make setup`", highlight=False)
        return
    folder = (out or Paths().build / "history" / variant).resolve()
    for number, (place, group) in enumerate(places(entries).items(), start=1):
        chart = history_chart(place, group, group[-1].solution.label)
        if chart:
            path = folder / f"{number}.svg"
            write_atomically(path, draw(chart))
            console.print(f"{chart.title}: {shown(path)}", highlight=False)
