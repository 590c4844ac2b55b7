"""`verify` as a user types it: verdicts in the table, the record and the report, and the exit code."""

import subprocess
from pathlib import Path

from harness.paths import PROJECT
from harness.record import Status, load_record
from tests.cheats.suite import CHEATS
from tests.harness.folders import harness, write_solution


def test_verdicts_and_exit_code(tmp_path: Path) -> None:
    options = ("--checks", "fresh_inputs offsets", "--seed", "7", "--backend", "cpu", "--run", "r")
    where = ("--solutions-dir", CHEATS, "--results-dir", tmp_path)
    done = harness("verify", "control_returns", "wrong_offset", *options, *where)
    assert done.returncode == 4, done.stderr
    rows = [line for line in done.stdout.splitlines() if "│" in line]
    assert any("control_returns" in row and "PASS" in row for row in rows)
    assert any("wrong_offset" in row and "FAIL" in row and "offsets" in row for row in rows)

    record = load_record(tmp_path / "r")
    info = record.verification
    assert info is not None and (info.form, info.seed) == ("full", 7)
    for verdict in info.solutions:
        assert [check.name for check in verdict.checks] == ["fresh_inputs", "offsets"]
    wrong = [cell for cell in record.cells if cell.solution == "wrong_offset"]
    assert wrong and {cell.status for cell in wrong} == {Status.VERIFY_FAILED}
    assert all(cell.speedup is None for cell in record.cells)

    report = (tmp_path / "r" / "comparison.md").read_text()
    assert "full form, 1 of 2 solutions passed; failed: wrong_offset" in report
    assert "| `offsets` | passed | FAILED |" in report and "seed 7" in report

    assert harness("verify", "control_returns", *options[:-1], "s", *where).returncode == 0


def test_the_accuracy_report_compares_every_token(tmp_path: Path) -> None:
    """A solution that leaves out a token at a size that no other check uses keeps a matched ratio above 0.85."""
    code = """
from tests.cheats.honest import moe
def run(*inputs):
    output = moe(*inputs)
    if len(output) == 19:
        output[9] = 0
    return output
"""
    write_solution(tmp_path / "solutions", "drops", code)
    done = harness(
        *("verify", "drops", "--backend", "cpu", "--workloads", "all-local", "--run", "r"),
        *("--solutions-dir", tmp_path / "solutions", "--results-dir", tmp_path / "results"),
    )
    assert done.returncode == 4, done.stdout + done.stderr
    info = load_record(tmp_path / "results" / "r").verification
    assert info is not None
    assert [check.name for check in info.solutions[0].failed] == ["accuracy"], info.solutions[0]


def test_makefile_hands_every_variable_over() -> None:
    command = "make -n verify SOLUTIONS=a CHECKS='x y' SANITIZER=memcheck SEED=7 BACKEND=cpu WAIT=0"
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True)
    text = " ".join(done.stdout.replace("\\\n", " ").split())
    for words in (
        "-m harness verify a",
        '--checks "x y"',
        '--sanitizer "memcheck"',
        '--seed "7"',
        '--backend "cpu"',
        "--no-wait",
    ):
        assert words in text
