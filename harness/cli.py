"""The command line: `python -m harness`."""

import errno
import io
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Column, Table

from harness import cli_results, cli_solutions, completion
from harness import doctor as doctor_module
from harness.bench import profile_solutions
from harness.dataset import write_out
from harness.definition import FULL, discover_definitions
from harness.errors import ExitCode, HarnessError
from harness.lock import folder_lock, gpu_lock
from harness.manifest import ALL, select, survey
from harness.paths import shown
from harness.plan import DEFAULT_SOLUTIONS, Plan, Request, make_plan, open_dataset, renamed
from harness.record import PROFILE_NAME, RunRecord
from harness.resume import Kept, resume_plan
from harness.run import Verify, command_line, execute
from harness.summary import summary_table, verdict_table
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
from harness.verify.stage import TOOLS

app = typer.Typer(
    help="Compare FlashInfer-Bench solutions of the DeepSeek-V3 FP8 block-scale MoE.",
    epilog='Example: python -m harness bench triton_v2 hopper_v4 --workloads "T=1-80"',
    no_args_is_help=True,
    # Shells complete names of commands, and `python -m harness` is none: `harness` is installed for that.
    add_completion=not sys.argv[0].endswith("__main__.py"),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Solutions = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders, labels or names, or 'all'. Default: the four documented ones.",
        autocompletion=completion.solution_names,
    ),
]
ProfileName = Annotated[
    str, typer.Option(help="A file of configs/, without .yaml.", autocompletion=completion.profiles)
]
GpuIndex = Annotated[
    int | None,
    typer.Option(
        help="Which GPU, from 0, as nvidia-smi counts; among those of CUDA_VISIBLE_DEVICES if that is set [0]."
    ),
]
Suite = Annotated[
    str,
    typer.Option(
        help="Synthetic suite: published, uniform, sweep or skewed.",
        autocompletion=completion.suites,
    ),
]
RunName = Annotated[str | None, typer.Option(help="Name of the run's folder under results/.")]
Backend = Annotated[
    Literal["auto", "gpu", "cpu"], typer.Option(help="auto: the GPU if there is one.")
]
Wait = Annotated[
    bool, typer.Option(help="Wait while another run uses the GPU, instead of refusing.")
]


@app.command()
def bench(
    solutions: Solutions = None,
    profile: ProfileName = "seed",
    workloads: Annotated[
        str | None,
        typer.Option(help="Ids, beginnings of ids, or T=57, T=1-80; separated by spaces."),
    ] = None,
    gpu: GpuIndex = None,
    run: RunName = None,
    suite: Suite = "published",
    backend: Backend = "auto",
    definition: Annotated[
        str | None,
        typer.Option(help="A folder of definitions/. Default: full size on a GPU, else small."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Measure everything so often, in rotated order; medians count.")
    ] = 1,
    verify: Annotated[
        bool | None,
        typer.Option(
            help="Put solutions through the short form of `verify` first [yes].",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Take up a run that ended early: what is missing or has changed.",
            autocompletion=completion.runs,
        ),
    ] = None,
    wait: Wait = True,
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
    kept = None
    if resume:
        if replace(request, solutions=[]) != Request([]) or solutions or verify is not None:
            raise HarnessError(
                "RESUME: takes solutions, profile and workloads from the record; leave the other options out"
            )
        plan, kept = resume_plan(resume, paths)
    else:
        plan = make_plan(request, paths)
    console.print(
        f"{len(plan.variants)} solutions x {len(plan.workloads)} workloads on "
        f"{plan.gpu.info.name if plan.gpu else 'the CPU'}, {plan.dataset.info.kind} dataset, profile {plan.profile_name}"
        + (f"; {len(kept.cells)} cells are finished" if kept else ""),
        highlight=False,
    )
    if repeats > 1 and plan.gpu is None:
        errors.print(
            f"REPEATS={repeats} was not used: the CPU backend times nothing.", highlight=False
        )
    form = Verify(kept.verification().form if kept else "none" if verify is False else "short")
    again = (lambda: resume_plan(resume, paths)) if resume else None
    record, code = _run(plan, request, form, wait, again)
    print_table(summary_table(record))
    if record.backend == "cpu":
        console.print("CPU backend: correctness only, no speed was measured.", highlight=False)
    console.print(
        f"Report: {shown(plan.paths.results / record.run_id / 'comparison.md')}", highlight=False
    )
    raise typer.Exit(code)


@app.command("verify")
def verify_command(
    solutions: Solutions = None,
    profile: ProfileName = "seed",
    workloads: Annotated[
        str | None,
        typer.Option(help="Of the accuracy report: ids, beginnings of ids, or T=57, T=1-80."),
    ] = None,
    gpu: GpuIndex = None,
    run: RunName = None,
    backend: Backend = "auto",
    checks: Annotated[
        str | None, typer.Option(help="Names of checks, separated by spaces. Default: all.")
    ] = None,
    sanitizer: Annotated[
        str | None,
        typer.Option(help="Tools of compute-sanitizer: memcheck, racecheck, initcheck."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all inputs, to repeat a run. Default: drawn now.")
    ] = None,
    wait: Wait = True,
    solutions_dir: SolutionsDir = None,
    results_dir: ResultsDir = None,
    configs_dir: ConfigsDir = None,
) -> None:
    """Examine solutions call by call in a process of their own, and write a verdict on each check.

    Example: python -m harness verify triton_v2 --sanitizer memcheck
    """
    tools = tuple((sanitizer or "").replace(",", " ").split())
    if unknown := set(tools) - set(TOOLS):
        raise HarnessError(
            f"SANITIZER: no tool is called {', '.join(unknown)}; there are: {', '.join(TOOLS)}"
        )
    request = Request(
        solutions=solutions or list(DEFAULT_SOLUTIONS),
        profile=profile,
        workloads=workloads.split() if workloads else None,
        gpu=gpu,
        run=run,
        backend=backend,
        suffix="-verify",
    )
    plan = make_plan(request, paths_of(solutions_dir, results_dir, configs_dir))
    what = Verify("full", tools, tuple((checks or "").split()), seed)
    record, code = _run(plan, request, what, wait)
    print_table(verdict_table(record))
    console.print(
        f"Report: {shown(plan.paths.results / record.run_id / 'comparison.md')}", highlight=False
    )
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
    gpu: GpuIndex = None,
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
    with gpu_lock(plan.gpu, plan.run_id, wait=True, say=_say):
        plan = renamed(plan, request)
        with folder_lock(plan.folder):
            profiles = profile_solutions(plan).profiles
    labels = {v.name: v.label for v in plan.variants}
    for entry in profiles:
        title = (
            f"{labels[entry.solution]} T={entry.seq_len}: latency {entry.latency_us:.1f} us, host "
            f"{entry.host_us:.1f} us, {entry.launches:.0f} launches of {entry.gpu_us:.1f} us in all"
        )
        kernels = Table(
            *(Column("kernel", overflow="fold"), "launches", "us"),
            title=title,
            title_justify="left",
        )
        for kernel in entry.kernels[:top]:
            kernels.add_row(escape(kernel.name[:80]), f"{kernel.launches:.0f}", f"{kernel.us:.1f}")
        console.print(kernels)
    console.print(f"Profile: {shown(plan.folder / PROFILE_NAME)}", highlight=False)


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
    suite: Suite = "published",
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
    variants = select(survey(paths.solutions), solutions or [ALL])
    fitting = [v for v in variants if v.fits(definition)]
    root = write_out(open_dataset(known[definition], suite, paths), fitting, out)
    console.print(f"Dataset: {root} ({len(fitting)} solutions)", highlight=False)


@app.command()
def doctor(
    as_json: AsJson = False, as_csv: AsCsv = False, solutions_dir: SolutionsDir = None
) -> None:
    """Say what is installed, which GPU is here, what each solution lacks, and how to get it.

    Exits with 2 when something is wrong that everything needs, or with a solution's folder.

    Example: python -m harness doctor --json
    """
    findings = doctor_module.examine(paths_of(solutions_dir))
    header = columns(("state", "state"), ("what", "what"), ("found", "found"), ("fix", "fix"))
    rows = [[f.state, f.what, f.found, f.fix] for f in findings]
    print_table(table("doctor", header, rows), as_json, as_csv)
    raise typer.Exit(ExitCode.OK if all(f.ok or f.optional for f in findings) else ExitCode.USAGE)


def _run(
    plan: Plan,
    request: Request,
    verify: Verify,
    wait: bool,
    resumed: Callable[[], tuple[Plan, Kept]] | None = None,
) -> tuple[RunRecord, ExitCode]:
    """Execute a plan while no other run has its GPU or its folder.

    Args:
        resumed: reads the record that is taken up; called when the run that it may still belong to has ended.
    """
    # A job scheduler's stop and a lost terminal keep the finished cells too; nohup stays in force.
    for sig in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sig) is signal.SIG_DFL:
            signal.signal(sig, _interrupt)
    with gpu_lock(plan.gpu, plan.run_id, wait, _say):
        plan = plan if resumed else renamed(plan, request)
        with folder_lock(plan.folder):
            plan, kept = resumed() if resumed else (plan, None)
            return execute(plan, command_line(), console, verify, kept)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


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
