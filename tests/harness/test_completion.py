"""Completion as bash asks for it: the command is started with the line so far in its environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.paths import PROJECT, Paths
from tests.harness.folders import environment, harness, write_solution

SCRIPT = "import sys; sys.argv[0] = 'harness'; from harness.cli import main; main()"
"""What the installed command `harness` does."""


def offered(line: str) -> list[str]:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(f"{line}.".split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env=environment(_HARNESS_COMPLETE="complete_bash", **words),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("harness do", ["doctor"]),
        ("harness bench sglang_v", ["sglang_v1", "sglang_v2"]),
        ("harness bench triton_v1 sglang_v", ["sglang_v1", "sglang_v2"]),
        ("harness new mine --from sglang_v", ["sglang_v1", "sglang_v2"]),
        ("harness export triton_v2", ["triton_v2"]),
        ("harness bench --profile se", ["seed"]),
        ("harness report 2026-02", ["2026-02-02-b200"]),
        ("harness report results/2026-02", ["results/2026-02-02-b200"]),
        ("harness compare 2026-11-24-h200 2026-02", ["2026-02-02-b200"]),
        ("harness history nothing_like_it", []),
        ("harness bench --suite s", ["sweep", "skewed"]),
        ("harness dataset --suite p", ["published"]),
        (
            "harness report 2026-11-24-h200 --table c",
            ["cells", "comparison", "correctness", "checks"],
        ),
    ],
)
def test_words(line: str, expected: list[str]):
    assert offered(line) == expected


def test_every_run_is_offered():
    runs = {path.parent.name for path in Paths().results.glob("*/run.json")}
    assert set(offered("harness report ")) == runs


def test_folders_that_the_line_names_are_used(tmp_path: Path):
    write_solution(tmp_path, "elsewhere")
    assert offered(f"harness bench --solutions-dir {tmp_path} e") == ["elsewhere"]
    write_solution(tmp_path, "every_key_wrong", colour="red")
    assert offered(f"harness bench --solutions-dir {tmp_path} e") == ["elsewhere"]
    assert offered(f"harness bench --solutions-dir {tmp_path / 'nowhere'} e") == []


def test_only_the_installed_command_offers_to_install_completion():
    """A shell completes by the first word, which for `python -m harness` is python."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--show-completion", "bash"],
        cwd=PROJECT,
        env=environment(SHELL="/bin/bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"),
        capture_output=True,
        text=True,
    )
    assert "_HARNESS_COMPLETE=complete_bash" in done.stdout, done.stderr
    done = harness("--show-completion")
    assert done.returncode == 2 and "No such option" in done.stderr
