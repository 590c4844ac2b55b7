"""One run at a time on a GPU and in a folder."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.lock import drop_abandoned, folder_lock
from harness.paths import PROJECT
from tests.harness.folders import environment, harness, stub, write_solution


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that holds the stub GPU, as another user of this machine would."""
    write_solution(tmp_path / "solutions", "slow", stub("wait 4 2.0"))
    write_solution(tmp_path / "solutions", "quick", stub("passed 3.0"))
    command = [
        sys.executable,
        "-m",
        "harness",
        "bench",
        "slow",
        "--run",
        "first",
        "--workloads",
        "T=1",
    ]
    command += ["--no-verify", *where(tmp_path)]
    env = environment(stub_gpu=True, TMPDIR=str(tmp_path))
    with subprocess.Popen(
        command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        next(line for line in process.stdout if "measuring" in line)
        yield process
        process.kill()


def where(tmp_path: Path) -> list[str]:
    folders = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    return list(map(str, folders))


def test_the_second_run_waits_and_says_so(busy: subprocess.Popen[str], tmp_path: Path) -> None:
    done = harness(
        *("bench", "quick", "--run", "second", "--workloads", "T=1", *where(tmp_path)),
        stub_gpu=True,
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"waiting: GPU 0 (NVIDIA Stub 100) is in use by process {busy.pid}, run first"
        in done.stdout
    )
    assert busy.poll() is not None or busy.wait(timeout=10) == 0, (
        "it ran before the first had ended"
    )


def test_two_that_waited_do_not_share_a_folder(busy: subprocess.Popen[str], tmp_path: Path) -> None:
    """Both found the name free; when the second one's turn comes, it is taken."""
    command = [sys.executable, "-m", "harness", "bench", "quick", "--run", "same", "--workloads"]
    command += ["T=1", "--no-verify", *where(tmp_path)]
    env = environment(stub_gpu=True, TMPDIR=str(tmp_path))
    both = [
        subprocess.Popen(command, cwd=PROJECT, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert any("same exists" in text for text in said)


def test_or_refuses(busy: subprocess.Popen[str], tmp_path: Path) -> None:
    done = harness(
        *("bench", "quick", "--no-wait", "--run", "second", "--workloads", "T=1", *where(tmp_path)),
        stub_gpu=True,
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 2 and f"process {busy.pid}" in done.stderr
    assert not (tmp_path / "results" / "second").exists()


def test_a_killed_run_holds_nothing(busy: subprocess.Popen[str], tmp_path: Path) -> None:
    busy.kill()
    busy.wait()
    start = time.monotonic()
    done = harness(
        *("bench", "quick", "--no-wait", "--run", "second", "--workloads", "T=1", *where(tmp_path)),
        stub_gpu=True,
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 0 and time.monotonic() - start < 60, done.stderr


def test_one_writer_in_a_folder(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "r"),
        pytest.raises(HarnessError, match="is writing there"),
        folder_lock(tmp_path / "r"),
    ):
        pass
    assert not (tmp_path / "r").exists(), "an empty folder is not left behind"
    with folder_lock(tmp_path / "r"):
        (tmp_path / "r" / "run.json").touch()
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["run.json"]


BUILDS = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("builds", flush=True)
time.sleep(60)
"""


def test_locks_of_killed_builders_are_dropped(tmp_path: Path) -> None:
    """As torch makes them: else whoever builds that solution next waits for ever. One that builds keeps its own."""
    locks = [tmp_path / "torch" / name / "lock" for name in ("killed", "working")]
    builders = []
    for lock in locks:
        lock.parent.mkdir(parents=True)
        command = [sys.executable, "-c", BUILDS, lock]
        builders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert builders[-1].stdout and builders[-1].stdout.readline() == "builds\n"
    killed, working = builders
    killed.kill()
    killed.wait()
    try:
        drop_abandoned(tmp_path)
        assert [lock.exists() for lock in locks] == [False, True]
    finally:
        working.kill()
        working.wait()
    drop_abandoned(tmp_path / "nowhere")
