"""Tables in a terminal: what is told apart stays whole, whatever the width."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from harness.paths import PROJECT
from harness.table_layout import broken_title
from harness.tables import Table, columns, spared, table
from tests.harness.folders import environment

HEADER = columns(
    ("name", "solution"),
    ("about", "what it is about"),
    ("folder", "folder"),
    ("nothing", "nothing"),
    ("speed", "a long heading", lambda v: f"{v:.2f}x"),
)
ROWS = [
    ["a_solution_with_a_name", "words that can be folded", "some/where", None, 12345.678],
    ["a_solution_with_a_nose", "more of them", "else/where", None, 1.0],
]


def lines(made: Table, width: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(made.rich(width), crop=False, soft_wrap=True)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [10, 40, 50, 60, 80, 120])
def test_names_and_numbers_are_never_cut(width: int):
    """Nor is anything replaced by an ellipsis; where it fits at all, no line is longer than the terminal."""
    made = table("t", spared(HEADER, "folder", "about"), ROWS)
    shown = lines(made, width)
    text = "\n".join(shown)
    for whole in ("a_solution_with_a_name", "a_solution_with_a_nose", "12345.68x"):
        assert whole in text
    assert "…" not in text
    assert width < 40 or max(map(len, shown)) <= width


def test_text_folds_before_a_column_is_left_out():
    made = table("t", spared(HEADER, "folder", "about"), ROWS)
    assert made.left_out(120) == ()
    assert made.left_out(75) == (), "the column without a value goes first, and is not missed"
    assert made.left_out(50) == ("folder",)
    assert made.left_out(40) == ("what it is about", "folder")


def test_a_column_that_is_not_spare_stays_and_lines_run_over():
    made = table("t", HEADER, ROWS)
    assert made.left_out(20) == () and max(map(len, lines(made, 20))) > 20


def test_square_brackets_and_wide_characters_keep_the_frame():
    made = table("t", columns(("a", "[b]a[/b]"), ("b", "b")), [["[red]x", "漢字"], ["y", "z"]])
    shown = lines(made, 80)
    assert "[red]x" in "".join(shown) and "[b]a[/b]" in shown[1]


def test_headings_break_at_spaces_and_hyphens():
    assert broken_title("2026-11-24-h200-again", 9) == "2026-11-\n24-h200-\nagain"
    assert broken_title("latency / floor", 7) == "latency\n/ floor"
    assert broken_title("short", 20) == "short"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("list", ["sglang_v1", "flashinfer_moe"]),
        ("history triton_v2 --out /dev/null/none", ["2026-11-24-h200-again", "41.13x"]),
        ("report 2026-11-24-h200 --table cells", ["sglang_v1", "syn-e05c6c03", "978.5"]),
        (
            "compare 2026-11-24-h200 2026-11-24-h200-all 2026-11-24-h200-again",
            ["sglang_v1", "978.5 us", "1677.1 us", "0.93x"],
        ),
    ],
)
def test_commands_in_a_terminal(width: int, command: str, whole: list[str]):
    """Under a terminal of that width: every line fits, and nothing is shortened."""
    script = (
        "import sys, pty, os, fcntl, termios, struct\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0:\n"
        "    os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], *sys.argv[3:]])\n"
        "fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 40, int(sys.argv[1]), 0, 0))\n"
        "os.write(fd, b'\\n')\n"
        "try:\n"
        "    while data := os.read(fd, 65536):\n"
        "        sys.stdout.buffer.write(data)\n"
        "except OSError:\n"
        "    pass\n"
    )
    # It begins when the terminal has its size.
    run = "input(); import sys, runpy; sys.argv[0] = 'harness'; runpy.run_module('harness', run_name='__main__')"
    env = environment(NO_COLOR="1", TERM="xterm")
    env.pop("COLUMNS")
    done = subprocess.run(
        [sys.executable, "-c", script, str(width), run, *command.split()],
        cwd=PROJECT,
        env={**env, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    shown = done.stdout.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    framed = [line for line in shown if line[:1] in ("┃", "│", "┏", "┡", "└")]
    assert framed, done.stdout + done.stderr
    assert max(map(len, framed)) <= width
    text = "\n".join(framed)
    assert "…" not in text
    for word in whole:
        assert word in text, word
