"""Solutions that take their process down, or try to take the harness with them: a verdict each, and nothing is left behind."""

import json
import os
import time
from pathlib import Path

import pytest

from harness.record import RunRecord, Status, load_record
from tests.harness.folders import harness, harness_with_small_files, write_solution

PRELUDE = "import os, signal, subprocess, sys, time\nfrom tests.cheats.honest import moe\n"
FAULTS = {
    "hangs": ("time.sleep(600)", "no answer within 8 s", Status.TIMEOUT),
    "dies": ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11", Status.RUNTIME_ERROR),
    "exits": ("os._exit(0)", "exited with 0 in the middle", Status.RUNTIME_ERROR),
    "floods": ("[print('x' * 100000) for _ in range(300)]", None, Status.PASSED),
    "hoards": ("bytearray(1 << 50)", "MemoryError", Status.RUNTIME_ERROR),
    "raises": ("raise ValueError('no luck')", "ValueError: no luck", Status.RUNTIME_ERROR),
    "shapes": ("return moe(*inputs)[:, :-1]", "shape is", Status.INCORRECT_SHAPE),
    "types": ("return moe(*inputs).half()", "dtype is torch.float16", Status.INCORRECT_DTYPE),
    # An answer of its own; those of the child come one command late from then on.
    "answers": (
        "open(sys.argv[1] + '/answers', 'w').write('{}\\n')",
        "shape is None",
        Status.INCORRECT_SHAPE,
    ),
    "zeros": ("return 0 * moe(*inputs)", "fresh_inputs", Status.VERIFY_FAILED),
    "forks": (
        "MARK.exists() or (MARK.touch(), subprocess.Popen(['sleep', '601'], start_new_session=True))",
        "alive",
        Status.VERIFY_FAILED,
    ),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, str, int]:
    root = tmp_path_factory.mktemp("faults")
    for name, (line, _, _) in FAULTS.items():
        mark = f"from pathlib import Path\nMARK = Path({str(root / 'forked')!r})\n"
        code = f"{PRELUDE}{mark}\ndef run(*inputs):\n    {line}\n    return moe(*inputs)\n"
        write_solution(root / "solutions", name, code)
    configs = root / "configs"
    configs.mkdir()
    profile = (Path(__file__).parents[3] / "configs" / "quick.yaml").read_text()
    (configs / "short.yaml").write_text(profile.replace("timeout: 120", "timeout: 8"))
    done = harness(
        *("bench", *FAULTS, "--backend", "cpu", "--run", "r", "--profile", "short"),
        *("--workloads", "one-token", "--solutions-dir", root / "solutions"),
        *("--results-dir", root / "results", "--configs-dir", configs),
    )
    assert "Traceback" not in done.stderr, done.stderr
    folder = root / "results" / "r"
    return load_record(folder), (folder / "comparison.md").read_text(), done.returncode


def test_exit_code_says_that_integrity_failed(outcome: tuple[RunRecord, str, int]) -> None:
    assert outcome[2] == 4


@pytest.mark.parametrize("name", FAULTS)
def test_verdict_and_cell(outcome: tuple[RunRecord, str, int], name: str) -> None:
    record, report, _ = outcome
    _, reason, status = FAULTS[name]
    assert record.verification is not None
    verdict = record.verification.of(f"{name}_full_name")
    assert verdict is not None and verdict.source_hash
    cell = record.cell(f"{name}_full_name", "one-token")
    assert cell.status is status and cell.speedup is None
    if reason is None:
        assert not verdict.failed, verdict.failed
        return
    assert reason in (cell.reason or "") and reason.split()[0] in report
    if status is Status.VERIFY_FAILED:
        assert f"VERIFY_FAILED ({verdict.failed[0].name})" in report
    if status in (Status.RUNTIME_ERROR, Status.TIMEOUT):
        assert {c.outcome for c in verdict.checks[1:]} == {"not_run"}, "once is enough"
    if name == "raises":
        for text in (cell.log_tail or "", report):
            assert "in run" in text and "raise ValueError('no luck')" in text


def test_a_solution_that_raises_is_a_failed_cell_and_no_breach(tmp_path: Path) -> None:
    code = "def run(*inputs):\n    raise ValueError('no luck')\n"
    write_solution(tmp_path / "solutions", "raises", code)
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    for command, expected in (("bench", 1), ("verify", 4)):
        done = harness(command, "raises", "--backend", "cpu", "--run", command, *where)
        assert done.returncode == expected, done.stdout + done.stderr


def test_nothing_is_left_running_or_lying_about(outcome: tuple[RunRecord, str, int]) -> None:
    time.sleep(0.2)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"601" not in entry.read_bytes().split(b"\0"), entry
        except OSError:
            continue
    mine = [p for p in Path("/dev/shm").glob("moe-verify-*") if not _alive(p.name.split("-")[2])]
    assert not mine


def _alive(pid: str) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_bench_without_verification_says_unverified(tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "good")
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    options = ("--backend", "cpu", "--run", "r", "--profile", "quick", "--workloads", "one-token")
    assert harness("bench", "good", "--no-verify", *options, *where).returncode == 0
    report = (tmp_path / "results" / "r" / "comparison.md").read_text()
    assert "**Verification:** unverified" in report and "## Verification" not in report
    path = tmp_path / "results" / "r" / "run.json"
    data = json.loads(path.read_text())
    del data["verification"], data["resumptions"]  # as records were before verification existed
    path.write_text(json.dumps(data))
    assert harness("report", tmp_path / "results" / "r").returncode == 0
    old = (tmp_path / "results" / "r" / "comparison.md").read_text()
    assert "erification" not in old


def test_a_tolerance_that_means_nothing_stops_the_run(tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "good")
    configs = tmp_path / "configs"
    configs.mkdir()
    profile = (Path(__file__).parents[3] / "configs" / "quick.yaml").read_text()
    (configs / "loose.yaml").write_text(profile.replace("rtol: 0.2", "rtol: 1.0"))
    for command in ("bench", "verify"):
        done = harness(
            *(command, "good", "--backend", "cpu", "--run", "r", "--profile", "loose"),
            *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
            *("--configs-dir", configs),
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "loose.yaml" in done.stderr and "an output of zeros would pass" in done.stderr
        assert not (tmp_path / "results" / "r").exists()


def test_bad_names_of_checks_and_tools(tmp_path: Path) -> None:
    where = ("--results-dir", tmp_path, "--backend", "cpu")
    done = harness("verify", "sglang_v2", "--checks", "many_cals", *where)
    assert done.returncode == 2 and "many_cals" in done.stderr and "many_calls" in done.stderr
    done = harness("verify", "sglang_v2", "--sanitizer", "memchek", *where)
    assert done.returncode == 2 and "memchek" in done.stderr and "racecheck" in done.stderr


def test_a_disk_that_fills_up_is_no_verdict(tmp_path: Path) -> None:
    """An output that finds no room is no fault of the solution: exit code 2, and no check has failed."""
    write_solution(tmp_path / "solutions", "good")
    where = ("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results")
    options = ("--backend", "cpu", "--workloads", "T=1", "--run", "r", *where)
    done = harness_with_small_files(8, "bench", "good", *options)
    assert done.returncode == 2 and "make room" in done.stderr, done.stderr
    assert "FAILED" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_built_under_examination_gets_no_speed(tmp_path: Path) -> None:
    """Else a solution would only have to refuse the examiner."""
    refuse = "if 'harness.verify.child' in sys.orig_argv:\n    raise ImportError('not here')\n"
    code = f"{PRELUDE}{refuse}\ndef run(*inputs):\n    return moe(*inputs)\n"
    write_solution(tmp_path / "solutions", "hides", code)
    done = harness(
        *("bench", "hides", "--backend", "cpu", "--run", "r", "--workloads", "one-token"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
    )
    (cell,) = load_record(tmp_path / "results" / "r").cells
    assert done.returncode == 4 and cell.status is Status.VERIFY_FAILED
    assert "not verified" in (cell.reason or "") and "not here" in (cell.reason or "")
