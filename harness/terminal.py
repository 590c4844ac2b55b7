"""What the commands share: consoles, options, and tables as people or programs read them."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.errors import HarnessError
from harness.paths import Paths
from harness.record import RECORD_NAME
from harness.tables import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence: a reader that has left, as with `| head`, must not end a run."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Where it goes into a pipe or a file, nothing is cut to the width of a terminal that is not there.
console = _Console() if sys.stdout.isatty() else _Console(soft_wrap=True, width=10_000)
errors = Console(stderr=True, soft_wrap=True)

SolutionsDir = Annotated[Path | None, typer.Option(help="Folder of solution folders [solutions/].")]
ConfigsDir = Annotated[Path | None, typer.Option(help="Folder of profiles [configs/].")]
ResultsDir = Annotated[Path | None, typer.Option(help="Folder of run folders [results/].")]


def _one_format(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> bool:
    others = {"as_json", "as_csv"} - {parameter.name}
    if value and any(context.params.get(other) for other in others):
        raise HarnessError("--json, --csv: both were given, and one can be printed; leave one out")
    return value


AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, for programs.", callback=_one_format)
]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="Print CSV, for spreadsheets.", callback=_one_format)
]


def paths_of(
    solutions: Path | None = None, results: Path | None = None, configs: Path | None = None
) -> Paths:
    """The project's folders, with those that the user named in their place."""
    default = Paths()
    return Paths(
        # Absolute: child processes run in the project's folder, wherever the user is.
        solutions=(solutions or default.solutions).resolve(),
        results=(results or default.results).resolve(),
        configs=(configs or default.configs).resolve(),
    )


def run_folder(run: str, results: Path) -> Path:
    """The folder of a run that was named by its path, that of its record, or its name under `results`."""
    folder = Path(run)
    if folder.name == RECORD_NAME and folder.is_file():
        return folder.parent
    return folder if folder.exists() else results / run.removeprefix("results/")


def print_json(data: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


def print_table(table: Table, as_json: bool = False, as_csv: bool = False) -> None:
    """A table for people, or whole for a program."""
    if as_json:
        print_json(table.records())
    elif as_csv:
        typer.echo(table.csv(), nl=False)
    else:
        # Nothing is cropped: a line that cannot be made shorter runs over.
        console.print(table.rich(console.width), crop=False, soft_wrap=True)
        if missing := table.left_out(console.width):
            console.print(
                f"No room here for: {', '.join(missing)}; a wider terminal, --csv and --json have all.",
                highlight=False,
                markup=False,
            )
