"""The GPU backend against flashinfer-bench's traps, by driving its real command line with a stub runner."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flashinfer_bench.data import Trace

from harness.paths import PROJECT, Paths
from harness.record import Cell, RunRecord, Status, load_record
from tests.harness.folders import environment, harness, stub, write_solution

TWO = "T=1-7"  # the two smallest workloads


def bench(tmp_path: Path, behaviours: dict[str, str], *options: str, workloads: str = TWO):
    """Run `bench` over stub solutions; returns the finished process and the record."""
    for folder, behaviour in behaviours.items():
        write_solution(tmp_path / "solutions", folder, stub(behaviour))
    done = harness(
        *("bench", *behaviours, "--workloads", workloads, "--run", "r", *options),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
        stub_gpu=True,
    )
    assert (tmp_path / "results" / "r" / "run.json").exists(), done.stdout + done.stderr
    return done, load_record(tmp_path / "results" / "r")


def cells_of(record: RunRecord, folder: str) -> list[Cell]:
    return [c for c in record.cells if c.solution == f"{folder}_full_name"]


def test_each_failure_costs_only_its_own_cells(tmp_path: Path) -> None:
    """flashinfer-bench exits 0 whatever happens; every cell still gets its status and a reason."""
    done, record = bench(
        tmp_path,
        {
            "good": "passed 4.0",
            "wrong": "status INCORRECT_NUMERICAL",
            "nan": "nan",
            "inf": "inf",
            "shape": "status INCORRECT_SHAPE",
            "dtype": "status INCORRECT_DTYPE",
            "broken": "status COMPILE_ERROR Traceback\nImportError: no module named nope",
            "crash": "status RUNTIME_ERROR RuntimeError: CUDA error: misaligned address",
            "absent": "missing",
            "twice": "twice 3.0",
        },
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(record.cells) == 20
    expected = {
        "good": (Status.PASSED, None),
        "wrong": (Status.INCORRECT_NUMERICAL, "matched ratio 0.5000 is below 0.85"),
        "nan": (Status.INCORRECT_NUMERICAL, "NaN"),
        "inf": (Status.INCORRECT_NUMERICAL, "infinite"),
        "shape": (Status.INCORRECT_SHAPE, "shape"),
        "dtype": (Status.INCORRECT_DTYPE, "dtype"),
        "broken": (Status.COMPILE_ERROR, None),
        "crash": (Status.RUNTIME_ERROR, "misaligned address"),
        "absent": (Status.MISSING, "exited with 0"),
        "twice": (Status.PASSED, None),
    }
    for folder, (status, reason) in expected.items():
        for cell in cells_of(record, folder):
            assert cell.status is status, cell
            assert (reason or "") in (cell.reason or ""), cell
            assert (cell.speedup is not None) == (status is Status.PASSED)
            assert (cell.reason is None) == (status is Status.PASSED)
    assert [c.speedup for c in cells_of(record, "good")] == [4.0, 4.0]
    assert [c.latency_ms for c in cells_of(record, "good")] == [2.5, 2.5]
    assert any("more than one trace" in w for w in record.warnings)
    report = (tmp_path / "results" / "r" / "comparison.md").read_text()
    assert "misaligned address" in report


def test_all_passed_exits_zero_and_records_what_was_run(tmp_path: Path) -> None:
    done, record = bench(tmp_path, {"a": "passed 4.0", "b": "passed 2.0"}, "--profile", "contest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not record.partial and record.all_passed()
    assert record.environment.gpu and record.environment.gpu.name == "NVIDIA Stub 100"
    assert record.environment.gpu.before and record.environment.gpu.before.sm_clock_mhz == 1980
    assert any("software power cap" in w for w in record.warnings)
    command = " ".join(record.benchmark_commands[0])
    assert command.startswith("flashinfer-bench run --local ")
    for words in (
        "--rtol 0.3 --atol 1.0 --required-matched-ratio 0.9 --timeout 300 --use-isolated-runner",
        "--warmup-runs 5 --iterations 20 --num-trials 3",
        "--solutions a_full_name b_full_name",
    ):
        assert words in command
    assert "4.00x" in done.stdout and "2/2" in done.stdout
    assert [w.seq_len for w in record.workloads] == [1, 7]
    # The traces behind the cells load in FlashInfer-Bench.
    lines = (tmp_path / "results" / "r" / "traces.jsonl").read_text().splitlines()
    traces = [Trace.model_validate_json(line) for line in lines]
    assert {(t.solution, t.workload.uuid) for t in traces} == {
        (c.solution, c.workload) for c in record.cells
    }
    # Ceilings need a real GPU: their absence is said, not hidden.
    assert record.ceilings is None and any("ceilings" in w for w in record.warnings)


def test_no_result_at_all(tmp_path: Path) -> None:
    """A lost workload and a selection that matches nothing both exit 0 in flashinfer-bench."""
    done, record = bench(tmp_path, {"a": "lose", "b": "passed 2.0"}, workloads="T=1")
    assert done.returncode == 1
    lost, good = cells_of(record, "a")[0], cells_of(record, "b")[0]
    assert lost.status is Status.MISSING and "No healthy" in (lost.log_tail or "")
    # b was lost with a's workload, then run again alone.
    assert good.status is Status.PASSED and good.speedup == 2.0


def test_solutions_after_a_dead_worker_are_run_again(tmp_path: Path) -> None:
    """The persistent runner answers 'Baseline handle not found' for those after a worker's death."""
    behaviours = {"a_breaks": "break", "b": "passed 2.0", "c": "passed 3.0"}
    done, record = bench(tmp_path, behaviours, workloads="T=1")
    assert done.returncode == 1
    assert [cells_of(record, f)[0].speedup for f in ("b", "c")] == [2.0, 3.0]
    assert cells_of(record, "a_breaks")[0].status is Status.RUNTIME_ERROR
    assert len(record.benchmark_commands) == 3


def test_flashinfer_bench_dies(tmp_path: Path) -> None:
    done, record = bench(tmp_path, {"a": "exit", "b": "passed 2.0"}, workloads="T=1")
    assert done.returncode == 1
    assert "exited with 3" in (cells_of(record, "a")[0].reason or "")
    assert cells_of(record, "b")[0].speedup == 2.0


def test_timeout_of_one_solution_is_not_paid_twice(tmp_path: Path) -> None:
    """A solution that hung is not asked for again; its other cells say why they are empty."""
    behaviours = {"slow": "status TIMEOUT Evaluation timeout after 600 seconds", "b": "passed 2.0"}
    done, record = bench(tmp_path, behaviours)
    first, second = cells_of(record, "slow")
    assert first.status is Status.TIMEOUT and first.reason == "no result within 600 s"
    assert second.status is Status.MISSING and "not run after the timeout" in (second.reason or "")
    assert [c.speedup for c in cells_of(record, "b")] == [2.0, 2.0]
    assert done.returncode == 1


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interruption_keeps_finished_cells(tmp_path: Path, sig: signal.Signals) -> None:
    write_solution(tmp_path / "solutions", "a", stub("wait 1 2.0"))
    write_solution(tmp_path / "solutions", "b", stub("hang"))
    command = [
        sys.executable,
        "-m",
        "harness",
        "bench",
        "a",
        "--workloads",
        "T=1-16",
        "--run",
        "r",
        "--no-verify",
    ]
    if sig is signal.SIGTERM:
        command[4:5] = ["a", "b"]
    command += ["--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"]
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment(stub_gpu=True), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if sig is signal.SIGINT and "2/5" in line:
                break
            if sig is signal.SIGTERM and "measuring" in line:
                time.sleep(12)  # into the hang
                break
        os.kill(process.pid, sig)
        process.stdout.read()
        assert process.wait(timeout=60) == 130
    record = load_record(tmp_path / "results" / "r")
    assert record.partial
    passed = [c for c in record.cells if c.status is Status.PASSED]
    if sig is signal.SIGINT:
        assert len(passed) >= 2
        assert passed[0].origin == "trace" and passed[0].latency_ms == 5.0
        # flashinfer-bench had written no trace of the second call: the log line is what is left.
        assert (
            passed[1].origin == "log" and passed[1].latency_ms is None and passed[1].speedup == 2.0
        )
    assert "artial" in (tmp_path / "results" / "r" / "comparison.md").read_text()


def test_a_full_disk_keeps_the_finished_cells(tmp_path: Path) -> None:
    """The traces of the second call do not fit; the record and the report of what was finished are there."""
    write_solution(tmp_path / "solutions", "a", stub("passed 2.0"))
    done = harness(
        *("bench", "a", "--workloads", "T=1-16", "--run", "r"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
        stub_gpu=True,
        STUB_DISK="traces.jsonl 2000",  # one trace has about 1,200 bytes
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    full = "r/traces.jsonl: No space left on device"
    for words in (full, "make room", "has the cells that were finished"):
        assert words in done.stderr
    folder = tmp_path / "results" / "r"
    record = load_record(folder)
    assert record.partial and any(full in warning for warning in record.warnings)
    assert len(record.cells) > 1 and {c.speedup for c in record.cells} == {2.0}
    assert "artial" in (folder / "comparison.md").read_text()
    # The traces of the first call are whole, and nothing half-written is left.
    assert len((folder / "traces.jsonl").read_text().splitlines()) == 1
    pages = ["charts", "comparison.md", "report.html"]
    assert sorted(p.name for p in folder.iterdir()) == [*pages, "run.json", "traces.jsonl"]


def test_the_lock_of_a_build_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    """Left by torch's builder in the project's own cache; each call of flashinfer-bench may build."""
    write_solution(tmp_path / "solutions", "a", stub("passed 2.0"))
    lock = Paths().kernel_cache / "torch" / f"killed-{tmp_path.name}-{os.getpid()}" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    try:
        where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
        done = harness("bench", "a", "--workloads", "T=1", "--run", "r", *where, stub_gpu=True)
        assert done.returncode == 0 and not lock.exists(), done.stdout + done.stderr
    finally:
        shutil.rmtree(lock.parent)


def test_existing_run_name_and_gpu_index(tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "a", stub("passed 2.0"))
    (tmp_path / "results" / "r").mkdir(parents=True)
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    done = harness("bench", "a", "--run", "r", *where, stub_gpu=True)
    assert done.returncode == 2 and "RUN" in done.stderr and "exists" in done.stderr
    done = harness("bench", "a", "--gpu", "3", *where, stub_gpu=True)
    assert done.returncode == 2 and "there is no GPU 3" in done.stderr
    done = harness("bench", "a", "--backend", "gpu", *where)
    assert done.returncode == 2 and "GPUs here: none" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "0"), "there is no GPU 0; GPUs here: none"),
        (("--gpu", "0", "--backend", "cpu"), "the CPU backend uses none"),
    ],
)
def test_a_gpu_that_is_asked_for_is_never_left_out(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    write_solution(tmp_path / "solutions", "a")
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    done = harness("bench", "a", *options, *where)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_the_gpu_is_one_of_those_that_the_user_made_visible(tmp_path: Path) -> None:
    """Its index counts within CUDA_VISIBLE_DEVICES, and flashinfer-bench sees that one alone."""
    write_solution(tmp_path / "solutions", "a", stub("passed 2.0"))
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    three = {"STUB_GPUS": "3", "STUB_LOG": str(tmp_path / "seen"), "CUDA_VISIBLE_DEVICES": "2,1"}
    for gpu, index in (("0", 2), ("1", 1)):
        run = ("--gpu", gpu, "--run", f"r{gpu}", "--workloads", "T=1")
        done = harness("bench", "a", *run, *where, stub_gpu=True, **three)
        assert done.returncode == 0, done.stdout + done.stderr
        info = load_record(tmp_path / "results" / f"r{gpu}").environment.gpu
        assert info and info.index == index and info.uuid == f"GPU-stub-{index}"
    assert (tmp_path / "seen").read_text().split() == ["GPU-stub-2", "GPU-stub-1"]
    done = harness("bench", "a", "--gpu", "2", *where, stub_gpu=True, **three)
    assert done.returncode == 2
    assert "no GPU 2; visible with CUDA_VISIBLE_DEVICES=2,1: 0 (NVIDIA" in done.stderr


def test_unmet_requirements_skip_only_that_solution(tmp_path: Path) -> None:
    root = tmp_path / "solutions"
    write_solution(root, "a", stub("passed 2.0"))
    write_solution(root, "b", stub("passed 2.0"), requires={"compute_capabilities": ["10.0"]})
    write_solution(root, "c", stub("passed 2.0"), requires={"packages": ["no_such_package"]})
    done = harness(
        *("bench", "all", "--workloads", "T=1", "--run", "r"),
        *("--solutions-dir", root, "--results-dir", tmp_path / "results"),
        stub_gpu=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = load_record(tmp_path / "results" / "r")
    assert [c.status.value for c in record.cells] == ["PASSED", "SKIPPED", "SKIPPED"]
    assert "requires compute capability 10.0" in (record.cells[1].reason or "")
    assert "no_such_package" in (record.cells[2].reason or "")


def test_a_users_dataset_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    """FIB_DATASET_PATH: its workloads run through links, and nothing is written to it."""
    users = tmp_path / "users"
    assert harness("dataset", "--out", users).returncode == 0
    (users / "synthetic.json").unlink()  # now it looks like a dataset of somebody else's
    before = {p: p.read_bytes() for p in users.rglob("*") if p.is_file()}
    write_solution(tmp_path / "solutions", "a", stub("passed 2.0"))
    done = harness(
        *("bench", "a", "--workloads", "T=1", "--run", "r"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
        stub_gpu=True,
        FIB_DATASET_PATH=str(users),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = load_record(tmp_path / "results" / "r")
    assert record.dataset.kind == "real" and record.dataset.seed is None
    assert record.workloads[0].local_pairs == 3  # counted from its routing tensors
    assert {p: p.read_bytes() for p in users.rglob("*") if p.is_file()} == before
