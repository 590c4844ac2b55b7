"""Commands on records: report, compare, history."""

import re
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from harness import completion
from harness.atomic import write_atomically
from harness.comparable import check_comparable, remarks, require_comparable, told_apart
from harness.compare import THRESHOLD, compare_records
from harness.compare_tables import (
    cells_table,
    changes_table,
    only_one_has,
    summary_table,
    verdict,
)
from harness.errors import ExitCode, HarnessError
from harness.history import (
    apart_from,
    find_entries,
    history_chart,
    history_table,
    places,
    remove_charts,
)
from harness.manifest import survey
from harness.paths import Paths, shown
from harness.record import load_record
from harness.report import write_report
from harness.report.charts import can_draw, draw
from harness.report.tables import TABLES, tables_of
from harness.report.view import build_report
from harness.terminal import (
    AsCsv,
    AsJson,
    ResultsDir,
    SolutionsDir,
    console,
    errors,
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
        typer.Option(
            help="Print this table instead; with --json or --csv, 'cells' by default.",
            autocompletion=completion.report_tables,
        ),
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
    record = load_record(folder)
    if as_json and table is None:
        print_json({name: one.records() for name, one in tables_of(record).items()})
        return
    name = table or "cells"
    if name not in TABLES:
        raise HarnessError(f"--table: {run} has no '{name}'; there are: {', '.join(TABLES)}")
    print_table(TABLES[name](build_report(record)), as_json, as_csv)


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
            "--allow-different",
            help="Compare even if GPU, dataset, profile or timer differ, and say what does.",
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
    if not isfinite(threshold):
        raise HarnessError(f"--threshold: {threshold} is no percentage; use a number such as 10")
    results = paths_of(results=results_dir).results
    folders = [run_folder(run, results) for run in runs]
    records = told_apart([load_record(folder) for folder in folders], [*map(shown, folders)])
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
                "differences": check_comparable(records),
                "verdicts": verdicts,
                "remarks": remarks(records),
                "only": [
                    {
                        "before": change.before.run_id,
                        "after": change.after.run_id,
                        "only_before": change.only_before,
                        "only_after": change.only_after,
                        "workloads_only_before": change.workloads_only_before,
                        "workloads_only_after": change.workloads_only_after,
                    }
                    for change in changes
                ],
                "summary": summary_table(changes).records(),
                "cells": changes_table(changes).records(),
            }
        )
    elif as_csv:
        print_table(changes_table(changes), as_csv=True)
    else:
        print_table(summary_table(changes))
        cells = cells_table(changes, only_changed=not everything)
        if cells.rows:
            print_table(cells)
        only = [line for change in changes for line in only_one_has(change)]
        for line in [*only, *remarks(records), *verdicts]:
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
    entries, left_out = find_entries(paths.results, variant, gpu)
    here = survey(paths.solutions)
    present = next((v for v in here.variants if variant in v.names), None)
    print_table(history_table(entries, present), as_json, as_csv)
    if not present and (error := here.broken.get(entries[-1].solution.folder or "")):
        errors.print(f"Not set against the present sources: {error}", highlight=False, markup=False)
    for line in left_out:
        errors.print(f"Left out: {line}", highlight=False, markup=False)
    if as_json or as_csv:
        return
    if not can_draw():
        console.print("No chart: matplotlib is not installed; run `make setup`", highlight=False)
        return
    folder = (out or Paths().build / "history" / re.sub(r"[^\w.-]+", "_", variant)).resolve()
    groups = list(places(entries).values())
    drawn = []
    for number, group in enumerate(groups, start=1):
        record = group[-1].record
        chart = history_chart(group, group[-1].solution.label)
        if chart is None:
            why = "the CPU backend" if record.backend == "cpu" else "no cell passed with a speedup"
            runs = ", ".join(entry.record.run_id for entry in group)
            console.print(f"No chart of {runs}: no speed, {why}.", highlight=False, markup=False)
            continue
        drawn.append(folder / f"{number}.svg")
        write_atomically(drawn[-1], draw(chart))
        console.print(f"{chart.title}: {shown(drawn[-1])}", highlight=False, markup=False)
        if why := apart_from(group, groups[: number - 1]):
            console.print(f"  {why}.", highlight=False, markup=False)
    remove_charts(folder, keep=drawn)
