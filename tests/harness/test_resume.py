"""A run that was killed is taken up again: no finished cell is lost, and none of other sources is mixed in."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.paths import PROJECT
from harness.record import RunRecord, Status, load_record
from tests.harness.folders import REFERENCE, environment, harness, stub, write_solution

KILLS = 10
WORKLOADS = ("--workloads", "one-token no-local-token few-pairs")


def prepare(root: Path) -> list[str | Path]:
    """Two solutions, one of which is wrong, and the options of a run of both."""
    write_solution(root / "solutions", "good")
    wrong = REFERENCE.replace("silu(gate) * up", "silu(gate)")
    assert wrong != REFERENCE
    write_solution(root / "solutions", "wrong", wrong)
    configs = root / "configs"
    configs.mkdir()
    profile = (PROJECT / "configs" / "quick.yaml").read_text()
    (configs / "quick.yaml").write_text(profile.replace("timeout: 120", "timeout: 30"))
    return [
        *("--solutions-dir", root / "solutions", "--results-dir", root / "results"),
        *("--configs-dir", configs),
    ]


def fresh(where: list[str | Path], run: str = "r") -> list[str | Path]:
    options = ("--backend", "cpu", "--no-verify", "--profile", "quick", *WORKLOADS)
    return ["bench", "good", "wrong", "--run", run, *options, *where]


def outcome(record: RunRecord) -> list[tuple[str, str, Status, float | None]]:
    return sorted((c.solution, c.workload, c.status, c.matched_ratio) for c in record.cells)


@dataclass(frozen=True)
class Whole:
    """A run that nobody interrupted."""

    root: Path
    seconds: float

    @property
    def record(self) -> RunRecord:
        return load_record(self.root / "results" / "r")

    def copy(self, root: Path) -> list[str | Path]:
        """Solutions and results under another root, and the options for them."""
        where = prepare(root)
        shutil.copytree(self.root / "results", root / "results")
        return where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    where = prepare(root)
    start = time.monotonic()
    done = harness(*fresh(where))
    assert done.returncode == 1, done.stderr
    return Whole(root, time.monotonic() - start)


@pytest.mark.parametrize("number", range(KILLS))
def test_kill_and_resume_give_the_cells_of_a_whole_run(
    tmp_path: Path, whole: Whole, number: int
) -> None:
    where = prepare(tmp_path)
    moment = (number + random.Random(number).random()) / KILLS * whole.seconds
    command = [sys.executable, "-m", "harness", *map(str, fresh(where))]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
    folder = tmp_path / "results" / "r"
    if not (folder / "run.json").exists():  # killed before it had planned anything
        shutil.rmtree(folder, ignore_errors=True)
        done = harness(*fresh(where))
    else:
        before = outcome(load_record(folder))
        assert set(before) <= set(outcome(whole.record)), "what was there at the kill was whole"
        done = harness("bench", "--resume", "r", *where)
        record = load_record(folder)
        assert [r.kept_cells for r in record.resumptions] == [len(before)]
    assert done.returncode == 1, done.stderr
    record = load_record(folder)
    assert not record.partial and outcome(record) == outcome(whole.record)
    assert not list(folder.rglob(".*.part")), "of a write that the kill broke off"


def test_verdicts_are_kept_like_cells(tmp_path: Path) -> None:
    """Killed between two verdicts: the first is not asked for again, the second comes from the same inputs."""
    where = prepare(tmp_path)
    folder = tmp_path / "results" / "r"
    command = [arg for arg in fresh(where) if arg != "--no-verify"]
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, command)],
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not _verdicts(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    before = load_record(folder).verification
    assert before is not None and [v.solution for v in before.solutions] == ["good_full_name"]
    done = harness("bench", "--resume", "r", *where)
    assert done.returncode == 4, done.stderr
    record = load_record(folder)
    after = record.verification
    assert after is not None and after.seed == before.seed
    assert after.solutions[0] == before.solutions[0]
    assert [v.solution for v in after.solutions if v.failed] == ["wrong_full_name"]
    statuses = {(c.solution, c.status) for c in record.cells}
    assert statuses == {
        ("good_full_name", Status.PASSED),
        ("wrong_full_name", Status.VERIFY_FAILED),
    }


def _verdicts(folder: Path) -> bool:
    if not (folder / "run.json").exists():
        return False
    info = load_record(folder).verification
    return info is not None and bool(info.solutions)


def partial_run(whole: Whole, root: Path) -> list[str | Path]:
    """A finished run turned into one that lost a cell."""
    where = whole.copy(root)
    path = root / "results" / "r" / "run.json"
    data = json.loads(path.read_text())
    data["partial"] = True
    data["cells"] = [
        c
        for c in data["cells"]
        if c["workload"] != "few-pairs" or c["solution"] != "good_full_name"
    ]
    for cell in data["cells"]:  # a mark that only a cell which does not run again keeps
        cell["max_abs_error"] = 12345.0
    path.write_text(json.dumps(data))
    return where


def test_only_missing_and_changed_cells_run_again(tmp_path: Path, whole: Whole) -> None:
    where = partial_run(whole, tmp_path)
    done = harness("bench", "--resume", "results/r", *where)
    record = load_record(tmp_path / "results" / "r")
    ran = [(c.solution, c.workload) for c in record.cells if c.max_abs_error != 12345.0]
    assert ran == [("good_full_name", "few-pairs")], done.stdout
    assert record.resumptions[0].kept_cells == 5 and record.resumptions[0].dropped == []
    report = (tmp_path / "results" / "r" / "comparison.md").read_text()
    assert "with 5 finished cells" in report

    main = tmp_path / "solutions" / "wrong" / "main.py"
    main.write_text(REFERENCE)  # now it is right
    assert harness("bench", "--resume", "r", *where).returncode == 0
    record = load_record(tmp_path / "results" / "r")
    assert record.all_passed() and record.resumptions[1].dropped == ["wrong"]
    again = {c.solution for c in record.cells if c.max_abs_error != 12345.0}
    assert again == {"good_full_name", "wrong_full_name"}
    kept = [c for c in record.cells if c.max_abs_error == 12345.0]
    assert {c.solution for c in kept} == {"good_full_name"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["profile"].update(atol=0.5), "profile"),
        (lambda d: d["dataset"].update(hash="0" * 64), "dataset"),
        (lambda d: d["environment"]["versions"].update(torch="1.0"), "torch"),
        (lambda d: d.update(backend="document"), "no benchmark run"),
    ],
)
def test_a_run_under_other_conditions_is_not_resumed(
    tmp_path: Path, whole: Whole, change: Callable[[dict[str, Any]], Any], word: str
) -> None:
    where = whole.copy(tmp_path)
    path = tmp_path / "results" / "r" / "run.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    done = harness("bench", "--resume", "r", *where)
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert path.read_bytes() == before


def test_resume_refuses_a_damaged_record_and_other_options(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"schema_version": 1, "run_')
    where = ("--results-dir", tmp_path / "results")
    done = harness("bench", "--resume", "r", *where)
    assert done.returncode == 2 and "run.json" in done.stderr and "damaged" in done.stderr
    done = harness("bench", "--resume", "rr", *where)
    assert done.returncode == 2 and "no such record" in done.stderr, done.stderr
    assert "nearest: r" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    for other in ("triton_v1", "--verify", "--no-verify"):
        done = harness("bench", other, "--resume", "r", *where)
        assert done.returncode == 2 and "leave the other options out" in done.stderr


def test_gpu_run_resumes_whole_calls_and_drops_damaged_traces(tmp_path: Path) -> None:
    """flashinfer-bench runs again for what lacks, each solution on its own workloads; damaged traces are told.

    The GPU is the second of two and the only visible one, as under a job scheduler.
    """
    second = {"STUB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "1"}
    for folder in ("a", "b"):
        write_solution(tmp_path / "solutions", folder, stub("passed 2.0"))
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    done = harness(
        "bench", "a", "b", "--run", "r", "--workloads", "T=1-15", *where, stub_gpu=True, **second
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "r"
    data = json.loads((folder / "run.json").read_text())
    lost = ("a_full_name", data["workloads"][2]["id"])
    data["cells"] = [c for c in data["cells"] if (c["solution"], c["workload"]) != lost]
    data["cells"][0]["latency_ms"] = 4.5
    (folder / "run.json").write_text(json.dumps(data))
    traces = (folder / "traces.jsonl").read_text().splitlines()
    (folder / "traces.jsonl").write_text("\n".join([traces[0][:50], *traces[1:]]))
    done = harness("bench", "--resume", "r", *where, stub_gpu=True, **second)
    assert done.returncode == 0, done.stderr
    record = load_record(folder)
    assert len(record.cells) == 8 and record.all_passed() and record.cells[0].latency_ms == 4.5
    assert any("1 line(s) of traces.jsonl were damaged" in warning for warning in record.warnings)
    new = record.benchmark_commands[-1]
    assert new[new.index("--solutions") + 1 : new.index("--warmup-runs")] == ["a_full_name"]


def test_repetitions_belong_to_one_run(tmp_path: Path) -> None:
    """A cell that lacks a repetition is measured again from the first; the others keep theirs and their traces."""
    for folder in ("a", "b"):
        write_solution(tmp_path / "solutions", folder, stub("series 2.0,4.0"))
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    options = ("--run", "r", "--workloads", "T=1-7", "--repeats", "2")
    done = harness("bench", "a", "b", *options, *where, stub_gpu=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "r"
    data = json.loads((folder / "run.json").read_text())
    for number, cell in enumerate(data["cells"]):
        assert len(cell["repeat_latencies_ms"]) == 2
        cell["matched_ratio"] = 0.875  # a mark that only a cell which does not run again keeps
        if number == 0:
            cell["repeat_latencies_ms"] = []  # as after an interruption in the second repetition
    (folder / "run.json").write_text(json.dumps(data))
    done = harness("bench", "--resume", "r", *where, stub_gpu=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = load_record(folder)
    assert record.repeats == 2 and record.resumptions[0].kept_cells == 3
    assert [len(cell.repeat_latencies_ms) for cell in record.cells] == [2] * 4
    assert [cell.matched_ratio == 0.875 for cell in record.cells] == [False, True, True, True]
    assert len((folder / "traces.jsonl").read_text().splitlines()) == 8


def test_a_full_disk_leaves_the_record_as_it_was(tmp_path: Path, whole: Whole) -> None:
    """Files may have a kilobyte at most, which stands for a disk without room."""
    where = partial_run(whole, tmp_path)
    path = tmp_path / "results" / "r" / "run.json"
    before = path.read_bytes()
    command = [sys.executable, "-m", "harness", "bench", "--resume", "r", *map(str, where)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "run.json" in done.stderr and "make room" in done.stderr
    assert path.read_bytes() == before
    assert not list((tmp_path / "results" / "r").glob(".run.json.*")), "half a file was left"
    assert harness("bench", "--resume", "r", *where).returncode == 1  # with room it goes on
    assert outcome(load_record(tmp_path / "results" / "r")) == outcome(whole.record)


def test_a_run_that_still_goes_is_taken_up_as_it_ends(tmp_path: Path) -> None:
    """RESUME waits for the GPU; what the run finished meanwhile is kept, not measured again."""
    write_solution(tmp_path / "solutions", "slow", stub("wait 2 2.0"))
    where = ["--solutions-dir", str(tmp_path / "solutions"), "--results-dir", str(tmp_path)]
    env = environment(stub_gpu=True, TMPDIR=str(tmp_path))  # locks of its own
    command = [sys.executable, "-m", "harness", "bench", "slow", "--run", "r", "--no-verify"]
    command += ["--workloads", "T=1 T=7", *where]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=pipe, text=True) as first:
        assert first.stdout is not None
        assert any("measuring" in line for line in first.stdout)  # it has written its record
        resumed = harness("bench", "--resume", "r", *where, stub_gpu=True, TMPDIR=str(tmp_path))
        first.communicate()
    assert resumed.returncode == first.returncode == 0, resumed.stderr
    record = load_record(tmp_path / "r")
    assert [r.kept_cells for r in record.resumptions] == [len(record.cells)] == [2]
    assert record.all_passed()
