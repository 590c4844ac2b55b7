"""Commands on solution folders: list, new, export."""

from pathlib import Path
from typing import Annotated

import typer

from harness.completion import solution_names
from harness.definition import FULL
from harness.environment import visible_gpus
from harness.export import write_solution_json, write_starter_kit
from harness.manifest import select_one, survey
from harness.paths import shown
from harness.plan import unmet
from harness.scaffold import new_solution
from harness.tables import Column, columns, spared, table
from harness.terminal import AsCsv, AsJson, SolutionsDir, console, paths_of, print_table


def list_solutions(
    as_json: AsJson = False, as_csv: AsCsv = False, solutions_dir: SolutionsDir = None
) -> None:
    """Show every solution: what it needs, and whether it can run here.

    Example: python -m harness list --json
    """
    gpus = visible_gpus()
    here = "yes" if gpus else "CPU, correctness only"
    header = columns(
        ("label", "solution"),
        ("name", "name"),
        ("language", "language"),
        ("state", "state"),
        ("requires", "requires"),
        Column("runs_here", "here", lambda runs: here if runs else "no"),
        ("why", "why"),
        ("folder", "folder"),
    )
    header = spared(header, "folder", "state", "name")
    solutions = paths_of(solutions_dir).solutions
    found = survey(solutions)
    rows = []
    for variant in found.variants:
        reason = unmet(variant, gpus[0] if gpus else None)
        manifest = variant.manifest
        rows.append(
            [
                variant.label,
                variant.name,
                manifest.language,
                manifest.state,
                manifest.requires.described(),
                reason is None,
                reason,
                shown(variant.folder),
            ]
        )
    for folder, error in found.broken.items():
        rows.append([folder, *[None] * 4, False, str(error), shown(solutions / folder)])
    print_table(table("solutions", header, rows), as_json, as_csv)


def new(
    name: Annotated[str, typer.Argument(help="Folder, label and name of the new solution.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="The solution to start from, by any of its names.",
            autocompletion=solution_names,
        ),
    ] = "triton_v2",
    solutions_dir: SolutionsDir = None,
) -> None:
    """Start a new solution as a copy of one that works; it passes as it is.

    Example: python -m harness new my_variant --from triton_v2
    """
    solutions = paths_of(solutions_dir).solutions
    original = select_one(survey(solutions), source, "FROM")
    made = new_solution(solutions, name, original)
    folder = shown(made.folder)
    console.print(f"Made {folder} from {original.label}. Next:", highlight=False)
    console.print(f"  edit {folder}/{made.manifest.sources[0]}", highlight=False, markup=False)
    console.print(
        f'  make bench SOLUTIONS="{name} {original.label}"', highlight=False, markup=False
    )


def export(
    name: Annotated[
        str,
        typer.Argument(help="A solution, by any of its names.", autocompletion=solution_names),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("solution.json"),
    starter_kit: Annotated[
        Path | None,
        typer.Option(help="Write the contest starter kit's config.toml and sources here instead."),
    ] = None,
    definition: Annotated[str, typer.Option(help="The definition that it shall solve.")] = FULL,
    solutions_dir: SolutionsDir = None,
) -> None:
    """Write a solution as the solution.json that flashinfer-bench and its contest take.

    Example: python -m harness export triton_v2 --out /tmp/solution.json

    Example: python -m harness export triton_v2 --starter-kit /tmp/kit
    """
    variant = select_one(survey(paths_of(solutions_dir).solutions), name, "NAME")
    if starter_kit:
        path = write_starter_kit(variant, definition, starter_kit)
    else:
        path = write_solution_json(variant, definition, out)
    console.print(f"Exported: {shown(path)}", highlight=False)
