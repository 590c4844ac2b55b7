"""The command line: errors are one line on stderr with the documented exit code, and never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from harness.cli import app
from harness.paths import PROJECT
from harness.record import load_record
from tests.harness.folders import (
    environment,
    harness,
    harness_with_small_files,
    stub,
    write_solution,
)

RUN = PROJECT / "results" / "2026-02-02-b200"


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["bench", "triton_v22"], ["triton_v22", "nearest: triton_v2"]),
        (["bench", "--profile", "sead"], ["sead.yaml", "seed"]),
        (["bench", "--workloads", "T=9999"], ["WORKLOADS", "T=9999", "one-token"]),
        (["bench", "--suite", "swep"], ["SUITE", "swep", "published"]),
        (["bench", "--run", "../x"], ["RUN", "../x"]),
        (["bench", "--definition", "moe"], ["moe", "there are"]),
        (["bench", "--backend", "gpu"], ["GPU", "none"]),
        (["bench", "--profile", "../configs/seed"], ["PROFILE", "../configs/seed", "copy it to"]),
        (["report", "results/none"], ["results/none/run.json", "no such record"]),
        (["report", "README.md"], ["README.md/run.json", "no such record"]),
        (["report", "results/2026-11-24-h20"], ["nearest: 2026-11-24-h200"]),
        (["report", "results/2026-11-24-h200-profile"], ["holds a profile", "profile.json"]),
        # What typer finds out has the same form as what the harness finds out.
        (["bench", "--gpu", "zero"], ["--gpu", "integer", "bench --help"]),
        (["bench", "--gpu"], ["--gpu", "requires an argument", "--help"]),
        (["bench", "--backend", "tpu"], ["--backend", "'auto', 'gpu', 'cpu'"]),
        (["bench", "--profil", "seed"], ["--profil", "bench --help"]),
        (["report"], ["Missing argument", "report --help"]),
        (["bensh"], ["bensh", "--help"]),
    ],
)
def test_bad_arguments(args: list[str], words: list[str]) -> None:
    refused(harness(*args), *words)


def test_definition_that_the_solution_does_not_fit(tmp_path: Path) -> None:
    write_solution(tmp_path, "a", definitions=["rmsnorm_*"])
    refused(
        harness("bench", "a", "--solutions-dir", tmp_path, "--results-dir", tmp_path / "r"),
        "a/manifest.yaml",
        "'definitions'",
        "rmsnorm_*",
    )


def test_a_name_that_two_folders_share(tmp_path: Path) -> None:
    """Whichever command meets it: `b` would be one folder's label and the other's name."""
    write_solution(tmp_path, "a", label="b")
    write_solution(tmp_path, "b")
    for command in (["bench", "a"], ["bench", "b"], ["dataset", "--out", tmp_path / "out"]):
        done = harness(*command, "--solutions-dir", tmp_path)
        refused(done, "a/manifest.yaml: key 'label': 'b' is taken by", "b/manifest.yaml")


def test_a_broken_folder_stops_only_what_asks_for_it(tmp_path: Path) -> None:
    """`list` and `doctor` show it with what is wrong, and another solution runs."""
    write_solution(tmp_path / "s", "a")
    write_solution(tmp_path / "s", "broken", colour="red")
    where = ("--solutions-dir", tmp_path / "s")
    wrong = "broken/manifest.yaml: key 'colour': is not known"
    listed = {row["label"]: row for row in json.loads(harness("list", "--json", *where).stdout)}
    assert listed["a"]["runs_here"] and not listed["broken"]["runs_here"]
    assert wrong in listed["broken"]["why"] and listed["broken"]["name"] is None
    text = harness("list", *where).stdout
    assert "colour" in text and "None" not in text
    doctor = harness("doctor", "--json", *where)
    (found,) = [row for row in json.loads(doctor.stdout) if row["what"] == "broken"]
    assert doctor.returncode == 2 and found["state"] == "!!" and wrong in found["found"]
    run = ("--backend", "cpu", "--no-verify", "--workloads", "T=1", "--results-dir", tmp_path / "r")
    done = harness("bench", "a", *run, *where)
    assert done.returncode == 0 and "PASS 1/1" in done.stdout, done.stdout + done.stderr
    for wanted in ("broken", "all"):
        refused(harness("bench", wanted, *run, *where), wrong)


def test_no_command_is_the_help() -> None:
    done = harness()
    assert done.returncode == 2 and done.stderr == ""
    assert "Example: python -m harness bench" in done.stdout
    for command in ("bench", "report", "doctor"):
        assert command in done.stdout


def test_any_locale(tmp_path: Path) -> None:
    """Files are UTF-8 whatever the locale; a terminal that lacks a character gets '?' for it."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / RUN.name
    folder.mkdir()
    (folder / "run.json").write_bytes((RUN / "run.json").read_bytes())
    done = harness("report", folder, **ascii_only)
    assert done.returncode == 0, done.stderr
    expected = (RUN / "comparison.md").read_bytes()
    assert not expected.isascii() and (folder / "comparison.md").read_bytes() == expected
    write_solution(tmp_path / "solutions", "a", label="größer")
    listed = harness("list", "--solutions-dir", tmp_path / "solutions", **ascii_only)
    assert listed.returncode == 0 and "gr??er" in listed.stdout, listed.stderr


def test_a_reader_that_leaves_ends_nothing(tmp_path: Path) -> None:
    """As with `| head -1`: no traceback, and a run goes on to its report."""
    write_solution(tmp_path / "solutions", "a", stub("wait 0.5 2.0"))
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    for args in (
        ["list"],
        ["bench", "a", "--no-verify", "--workloads", "T=1-7", "--run", "r", *where],
    ):
        with subprocess.Popen(
            [sys.executable, "-m", "harness", *map(str, args)],
            cwd=PROJECT,
            env=environment(stub_gpu=True),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout and process.stderr
            if args[0] == "bench":
                process.stdout.readline()
            process.stdout.close()
            assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0), args
    assert load_record(tmp_path / "results" / "r").all_passed()
    assert (tmp_path / "results" / "r" / "comparison.md").exists()


def test_no_room_for_a_report(tmp_path: Path) -> None:
    """The old page stays as it was."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "run.json").write_bytes((RUN / "run.json").read_bytes())
    (folder / "comparison.md").write_text("old")
    done = harness_with_small_files(4, "report", folder)
    refused(done, str(folder / "charts" / "speedup.svg"), "too large", "make room")
    assert sorted(p.name for p in folder.iterdir()) == ["charts", "comparison.md", "run.json"]
    assert (folder / "comparison.md").read_text() == "old"


def test_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 9')
    refused(harness("report", tmp_path), "run.json")
    (tmp_path / "run.json").write_text('{"schema_version": 9}')
    refused(harness("report", tmp_path), "run.json", "schema")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    write_solution(tmp_path, "a")
    where = ("--solutions-dir", tmp_path, "--results-dir", "/proc/nowhere")
    refused(harness("bench", "a", "--backend", "cpu", *where), "/proc/nowhere")


def test_square_brackets_in_a_label_are_text(tmp_path: Path) -> None:
    write_solution(tmp_path, "a", label="[red]a[/blue]")
    done = harness("list", "--solutions-dir", tmp_path)
    assert done.returncode == 0 and "[red]a[/blue]" in done.stdout
    assert "[results/]" in harness("bench", "--help").stdout


def test_dataset_path_that_is_none(tmp_path: Path) -> None:
    done = harness("dataset", "--out", tmp_path / "out", FIB_DATASET_PATH=str(tmp_path / "nowhere"))
    refused(done, "FIB_DATASET_PATH", "nowhere")


def test_without_flashinfer_bench(tmp_path: Path) -> None:
    """A package of that name that cannot be found: the fix is named."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'flashinfer_bench' else find(name, *a)\n"
    )
    done = harness("bench", PYTHONPATH=str(tmp_path))
    refused(done, "flashinfer-bench", "make setup")


def test_dataset_runs_with_plain_flashinfer_bench(tmp_path: Path) -> None:
    """The written root needs nothing of this harness: FlashInfer-Bench's own command takes it."""
    out = tmp_path / "root"
    done = harness("dataset", "--out", out, "--definition", _small())
    assert done.returncode == 0, done.stderr
    run = subprocess.run(
        [Path(sys.executable).parent / "flashinfer-bench", "run", "--local", out],
        env=environment(stub_gpu=True),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    traces = "".join(p.read_text() for p in (out / "traces").rglob("*.jsonl"))
    assert traces.count("PASSED") >= 4 * 6


def test_list_doctor_definitions() -> None:
    listed = harness("list")
    assert listed.returncode == 0
    for name in ("sglang_v1", "sglang_fp8_blockwise_moe_v2", "triton_fused_moe_v2"):
        assert name in listed.stdout
    rows = json.loads(harness("list", "--json").stdout)
    assert {type(row["runs_here"]) for row in rows} == {bool}
    doctor = harness("doctor")
    assert (
        doctor.returncode == 0 and "flashinfer-bench" in doctor.stdout and "0.1.2" in doctor.stdout
    )
    assert "hidden_size=7168" in harness("definitions").stdout


def test_doctor_says_what_stands_in_without_a_gpu(tmp_path: Path) -> None:
    """And with one, what to install."""
    requires = {"packages": ["sgl_kernel", "no_such"], "compute_capabilities": ["1.0"]}
    write_solution(tmp_path, "some", requires={"packages": ["sgl_kernel"]})
    write_solution(tmp_path, "much", requires=requires)

    def found(**env) -> dict[str, dict]:
        done = harness("doctor", "--json", "--solutions-dir", tmp_path, **env)
        return {row["what"]: row for row in json.loads(done.stdout)}

    cpu = found()
    assert cpu["some"]["found"].startswith(
        "can run here for correctness, with a stand-in for sgl_kernel; it requires"
    )
    assert cpu["much"]["found"].startswith("requires the Python package no_such, which")
    gpu = found(stub_gpu=True)
    assert "compute capability 1.0" in gpu["much"]["found"] and "no_such" in gpu["much"]["found"]
    assert gpu["much"]["fix"].startswith("run it on a GPU of compute capability 1.0; ")
    assert gpu["much"]["fix"].endswith("pip install what provides no_such")


def test_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    write_solution(tmp_path, "a", colour="red")
    done = harness("doctor", "--solutions-dir", tmp_path)
    assert done.returncode == 2 and "colour" in done.stdout


def test_makefile_hands_every_variable_over() -> None:
    command = (
        "make -n bench SOLUTIONS='a b' PROFILE=quick WORKLOADS='T=1 T=7' GPU=1 RUN=r SUITE=sweep"
    )
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True)
    text = " ".join(done.stdout.replace("\\\n", " ").split())
    for words in (
        "-m harness bench a b",
        '--profile "quick"',
        '--workloads "T=1 T=7"',
        '--gpu "1"',
        '--run "r"',
        '--suite "sweep"',
    ):
        assert words in text


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("new NAME=mine FROM=triton_v1", 'new "mine" --from "triton_v1"'),
        ("export NAME=mine OUT=x.json", 'export "mine" --out "x.json"'),
        ("history VARIANT=mine GPU_NAME=H200", 'history "mine" --gpu "H200"'),
    ],
)
def test_makefile_hands_names_over(goal: str, words: str) -> None:
    done = subprocess.run(
        f"make -n {goal}", shell=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert f"-m harness {words}" in done.stdout


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("compare A=results/x", "give A= and B=, each a run"),
        ("compare", "give A= and B="),
        ("report", "give RUN=results/<run>"),
        ("history", "give VARIANT="),
        ("new", "give NAME="),
        ("export", "give NAME="),
        ("dataset", "give OUT="),
    ],
)
def test_make_says_which_variable_is_missing(goal: str, words: str) -> None:
    """Instead of what the command makes of an empty word."""
    command = ["make", "--no-print-directory", *goal.split(), "VENV=", f"PYTHON={sys.executable}"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert len(ours) == 1 and ours[0].startswith("error: ") and words in ours[0], done.stderr


def test_repetitions_without_a_gpu_are_named(tmp_path: Path) -> None:
    """The CPU backend times nothing, so they would be left out in silence."""
    write_solution(tmp_path / "solutions", "a")
    done = harness(
        *("bench", "a", "--backend", "cpu", "--repeats", "3", "--workloads", "one-token"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
        "--no-verify",
    )
    assert done.returncode == 0 and "REPEATS=3 was not used" in done.stderr, done.stderr


def test_help_of_every_command_has_an_example() -> None:
    commands = get_command(app).commands
    assert {"bench", "report", "compare", "new"} <= set(commands)
    for name, command in commands.items():
        assert f"Example: python -m harness {name}" in command.help, name


def test_makefile_help_lists_every_target() -> None:
    text = (PROJECT / "Makefile").read_text()
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY"))
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=PROJECT, capture_output=True, text=True
    )
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert set(phony.split()[1:]) == listed


def _small() -> str:
    names = [p.parent.name for p in (PROJECT / "definitions").glob("*/definition.yaml")]
    sizes = {
        n: yaml.safe_load((PROJECT / "definitions" / n / "definition.yaml").read_text())
        for n in names
    }
    return min(names, key=lambda n: sizes[n]["axes"]["hidden_size"]["value"])
