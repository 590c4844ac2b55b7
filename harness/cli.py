"""The command line: `python -m harness`."""

import errno
import io
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from harness import cli_results, cli_solutions, completion
from harness import doctor as doctor_module
from harness.bench import profile_solutions
from harness.dataset import write_out
from harness.definition import FULL, discover_definitions
from harness.errors import ExitCode, HarnessError
from harness.manifest import discover, select
from harness.paths import shown
from harness.plan import DEFAULT_SOLUTIONS, Request, make_plan, open_dataset
from harness.run import command_line, execute
from harness.summary import summary_table
from harness.tables import columns, table
from harness.terminal import (
    AsCsv,
    AsJson,
    ConfigsDir,
    ResultsDir,
    SolutionsDir,
    console,
    errors,
    paths_of,
    print_table,
)

app = typer.Typer(
    help="Compare FlashInfer-Bench solutions of the DeepSeek-V3 FP8 block-scale MoE.",
    no_args_is_help=True,
    # Shells complete names of commands, and `python -m harness` is none: `harness` is installed for that.
    add_completion=not sys.argv[0].endswith("__main__.py"),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
GPU_HELP = "Which GPU, from 0, as nvidia-smi counts; among those of CUDA_VISIBLE_DEVICES if that is set [0]."


@app.command()
def bench(
    solutions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, labels or names, or 'all'. Default: the four documented ones.",
            autocompletion=completion.solution_names,
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(help="A file of configs/, without .yaml.", autocompletion=completion.profiles),
    ] = "seed",
    workloads: Annotated[
        str | None,
        typer.Option(help="Ids, beginnings of ids, or T=57, T=1-80; separated by spaces."),
    ] = None,
    gpu: Annotated[int | None, typer.Option(help=GPU_HELP)] = None,
    run: Annotated[
        str | None, typer.Option(help="Name of the run's folder under results/.")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Synthetic suite: published, uniform, sweep or skewed.")
    ] = "published",
    backend: Annotated[
        Literal["auto", "gpu", "cpu"], typer.Option(help="auto: the GPU if there is one.")
    ] = "auto",
    definition: Annotated[
        str | None,
        typer.Option(help="A folder of definitions/. Default: full size on a GPU, else small."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Measure everything so often, in rotated order; medians count.")
    ] = 1,
    solutions_dir: SolutionsDir = None,
    results_dir: ResultsDir = None,
    configs_dir: ConfigsDir = None,
) -> None:
    """Run solutions over workloads and write a record and its comparison under results/.

    Example: python -m harness bench sglang_v1 triton_v2 --profile seed --workloads "T=1-80"
    """
    paths = paths_of(solutions_dir, results_dir, configs_dir)
    request = Request(
        solutions=solutions or list(DEFAULT_SOLUTIONS),
        profile=profile,
        workloads=workloads.split() if workloads else None,
        gpu=gpu,
        run=run,
        suite=suite,
        backend=backend,
        definition=definition,
        repeats=repeats,
    )
    plan = make_plan(request, paths)
    console.print(
        f"{len(plan.variants)} solutions x {len(plan.workloads)} workloads on "
        f"{plan.gpu.info.name if plan.gpu else 'the CPU'}, {plan.dataset.info.kind} dataset, profile {profile}",
        highlight=False,
    )
    # A job scheduler's stop and a lost terminal keep the finished cells too; nohup stays in force.
    for sig in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sig) is signal.SIG_DFL:
            signal.signal(sig, _interrupt)
    record, code = execute(plan, command_line(), console)
    console.print(summary_table(record))
    if record.backend == "cpu":
        console.print("CPU backend: correctness only, no speed was measured.", highlight=False)
    console.print(f"Report: {shown(plan.folder / 'comparison.md')}", highlight=False)
    raise typer.Exit(code)


for command in (cli_results.report, cli_results.compare, cli_results.history):
    app.command()(command)
app.command("list")(cli_solutions.list_solutions)
for command in (cli_solutions.new, cli_solutions.export):
    app.command()(command)


@app.command()
def profile(
    solutions: Annotated[
        list[str],
        typer.Argument(
            help="Folders, labels or names, or 'all'.", autocompletion=completion.solution_names
        ),
    ],
    workloads: Annotated[
        str, typer.Option(help="As for bench; one per size class by default.")
    ] = "T=1 T=57 T=901 T=14107",
    gpu: Annotated[int | None, typer.Option(help=GPU_HELP)] = None,
    run: Annotated[
        str | None, typer.Option(help="Name of the folder under results/ for profile.json.")
    ] = None,
    top: Annotated[int, typer.Option(help="Kernels to show for each; the file holds all.")] = 8,
    solutions_dir: SolutionsDir = None,
    results_dir: ResultsDir = None,
) -> None:
    """Show where a call's time goes: latency, host time and each kernel. Needs a GPU.

    Example: python -m harness profile triton_v2 --workloads "T=1 T=57"
    """
    request = Request(solutions, workloads=workloads.split(), gpu=gpu, run=run, backend="gpu")
    plan = make_plan(request, paths_of(solutions_dir, results_dir))
    profiles = profile_solutions(plan).profiles
    labels = {v.name: v.label for v in plan.variants}
    for entry in profiles:
        title = (
            f"{labels[entry.solution]} T={entry.seq_len}: latency {entry.latency_us:.1f} us, host "
            f"{entry.host_us:.1f} us, {entry.launches:.0f} launches of {entry.gpu_us:.1f} us in all"
        )
        table = Table("kernel", "launches", "us", title=title, title_justify="left")
        for kernel in entry.kernels[:top]:
            table.add_row(escape(kernel.name[:80]), f"{kernel.launches:.0f}", f"{kernel.us:.1f}")
        console.print(table)
    console.print(f"Profile: {shown(plan.folder / 'profile.json')}", highlight=False)


@app.command()
def definitions(as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show the definitions and their constant axes.

    Example: python -m harness definitions
    """
    header = columns(("definition", "definition"), ("axes", "axes"))
    rows = [
        (name, ", ".join(f"{k}={v}" for k, v in definition.const_axes.items()))
        for name, definition in discover_definitions(paths_of().definitions).items()
    ]
    print_table(table("definitions", header, rows), as_json, as_csv)


@app.command()
def dataset(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    solutions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Solutions to include. Default: all.", autocompletion=completion.solution_names
        ),
    ] = None,
    suite: Annotated[str, typer.Option(help="published, uniform, sweep or skewed.")] = "published",
    definition: Annotated[str, typer.Option(help="A folder of definitions/.")] = FULL,
    solutions_dir: SolutionsDir = None,
) -> None:
    """Write a complete FlashInfer-Bench dataset root, for use without this harness.

    Example: python -m harness dataset --out /tmp/moe && flashinfer-bench run --local /tmp/moe
    """
    paths = paths_of(solutions_dir)
    known = discover_definitions(paths.definitions)
    if definition not in known:
        raise HarnessError(f"--definition: no {definition}; there are: {', '.join(known)}")
    variants = select(discover(paths.solutions), solutions or ["all"])
    fitting = [v for v in variants if v.fits(definition)]
    root = write_out(open_dataset(known[definition], suite, paths), fitting, out)
    console.print(f"Dataset: {root} ({len(fitting)} solutions)", highlight=False)


@app.command()
def doctor(
    as_json: AsJson = False, as_csv: AsCsv = False, solutions_dir: SolutionsDir = None
) -> None:
    """Say what is installed, which GPU is here, what each solution lacks, and how to get it.

    Exits with 2 when something is wrong that everything needs.

    Example: python -m harness doctor --json
    """
    findings = doctor_module.examine(paths_of(solutions_dir))
    header = columns(("state", ""), ("what", "what"), ("found", "found"), ("fix", "fix"))
    rows = [[f.state, f.what, f.found, f.fix] for f in findings]
    print_table(table("doctor", header, rows), as_json, as_csv)
    raise typer.Exit(ExitCode.OK if all(f.ok or f.optional for f in findings) else ExitCode.USAGE)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: errors become one line on stderr and the documented exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without a character must not end a run
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "make room" if full else "make it writable or name another folder"
        _fail(f"{error.filename or 'file system'}: {error.strerror or error}; {fix}")
    except Exception as error:
        # Typer brings its own copy of click or uses the one that is installed, as its version has it.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: the message is the help
            typer.echo(message)
            sys.exit(ExitCode.USAGE)
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "python -m harness"
        _fail(f"{message.rstrip('.')}; {command} --help says what it takes")
    sys.exit(code)


def _fail(message: str, code: ExitCode = ExitCode.USAGE) -> NoReturn:
    line = " ".join(f"error: {message}".split())
    errors.print(line, style="red", markup=False, highlight=False)
    sys.exit(code)
