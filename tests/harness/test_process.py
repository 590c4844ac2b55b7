"""Processes: output is followed live, limits hold for whatever was started, nothing survives."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import process
from harness.paths import PROJECT
from harness.process import Background, follow, output_of
from tests.harness.processes import alive, running


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    code = "import time, sys\nprint('a'); time.sleep(1); print('b', file=sys.stderr); sys.exit(3)"
    done = follow(
        python(code),
        timeout_s=30,
        log=tmp_path / "log",
        on_line=lambda line: seen.append((line, time.monotonic())),
    )
    assert done.returncode == 3 and not done.timed_out
    assert [line for line, _ in seen] == ["a", "b"]
    assert seen[1][1] - seen[0][1] > 0.5
    assert done.tail == "a\nb" and (tmp_path / "log").read_text() == "a\nb\n"


# One write per line: two processes share the pipe.
FORKS = "import os, time\npid = os.fork()\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(600)"


def test_the_limit_ends_the_whole_group() -> None:
    pids: list[int] = []
    start = time.monotonic()
    done = follow(python(FORKS), timeout_s=2, on_line=lambda line: pids.append(int(line)))
    assert done.timed_out and time.monotonic() - start < 15
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


def test_silence_has_a_limit_of_its_own() -> None:
    done = follow(python("import time\nprint(1)\ntime.sleep(600)"), timeout_s=60, idle_s=1)
    assert done.timed_out and done.seconds < 20


NEVER_SILENT = "import time\nwhile True:\n    print('still here'); time.sleep(0.05)"
NO_OUTPUT = "import os, time\nprint(1)\nos.close(1); os.close(2)\ntime.sleep(600)"


@pytest.mark.parametrize("code", [NEVER_SILENT, NO_OUTPUT])
def test_progress_is_what_the_caller_says(code: str) -> None:
    """Neither one that keeps printing nor one that closed its output escapes the limit."""
    done = follow(python(code), timeout_s=60, idle_s=1.5, progress=lambda: "the same")
    assert done.timed_out and done.seconds < 20


def test_progress_starts_the_clock_anew() -> None:
    """The limit is per step: three steps of 1 s pass under a limit of 2 s, and none runs before the first."""
    start = time.monotonic()

    def steps() -> int | None:
        seconds = time.monotonic() - start
        return None if seconds < 3 else int(seconds)

    done = follow(python("import time\ntime.sleep(6)"), timeout_s=60, idle_s=2, progress=steps)
    assert done.returncode == 0


ESCAPES = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, b'%d\\n' % os.getpid())
        time.sleep(600)
    os._exit(0)
time.sleep({seconds})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets us adopt orphans")
@pytest.mark.parametrize(("seconds", "timed_out"), [("0.5", False), ("600", True)])
def test_a_daemon_is_ended_too(seconds: str, timed_out: bool) -> None:
    """Forked twice and in a session of its own, a process has left both the group and the family."""
    pids: list[int] = []
    code = ESCAPES.format(seconds=seconds)
    done = follow(python(code), timeout_s=3, on_line=lambda line: pids.append(int(line)))
    assert done.timed_out is timed_out
    assert len(pids) == 1 and not Path(f"/proc/{pids[0]}").exists(), "killed, and reaped"


def test_other_children_of_ours_are_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        follow(python("print(1)"), timeout_s=30)
        assert other.poll() is None
        other.kill()


def test_what_is_followed_leaves_one_in_the_background_alone() -> None:
    """With all that is below it, as while the GPU's rates are measured."""
    code = "import subprocess, time\nsubprocess.Popen(['sleep', '621'], start_new_session=True)\nprint(1, flush=True)\ntime.sleep(600)"
    with Background(python(code)) as waits:
        deadline = time.monotonic() + 30
        while "1" not in waits.tail() and time.monotonic() < deadline:
            time.sleep(0.05)
        follow(python("import os\nif os.fork() == 0:\n    os.setsid()"), timeout_s=30)
        assert waits.returncode() is None and len(running("sleep 621")) == 1
    assert not running("sleep 621")


def test_of_two_in_the_background_none_is_the_stray_of_the_other() -> None:
    with ExitStack() as end, ExitStack() as end_first:
        first = end_first.enter_context(Background(["sleep", "600"]))
        waits = end.enter_context(Background(["sleep", "600"]))
        assert not first.strays() and not waits.strays()
        end_first.close()
        assert first.returncode() is not None and waits.returncode() is None
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as later:
            assert waits.strays() == {later.pid}
            waits.disown_others()
            assert not waits.strays()
            later.kill()


def test_killing_all_of_one_leaves_nothing_to_another() -> None:
    """Neither what is below it in a group of its own nor what it has let go of, alive or not."""
    below = "subprocess.Popen(['sleep', '618'], start_new_session=True)"
    code = f"import os, subprocess, time\n{below}\nif os.fork() == 0:\n    {below}\n    os._exit(0)\ntime.sleep(600)"
    with Background(["sleep", "600"]) as other, Background(python(code)) as killed:
        deadline = time.monotonic() + 30
        while len(running("sleep 618")) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(running("sleep 618")) == 2 and not other.strays() and not killed.strays()
        killed.kill_all()
        assert killed.returncode() is not None and not running("sleep 618") and not other.strays()


def test_the_end_of_what_one_in_the_background_says_is_kept() -> None:
    """By bytes, however small the pieces are in which it comes."""
    code = "import time\nfor i in range(300):\n    print(i, flush=True)\n    time.sleep(0.001)\nprint('x' * 3_000_000)"
    with (
        Background(python(code.replace("3_000_000", "3"))) as small,
        Background(python(code)) as big,
    ):
        deadline = time.monotonic() + 30
        while None in (small.returncode(), big.returncode()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert small.tail().splitlines() == [*map(str, range(300)), "xxx"]
        assert len(big.tail()) <= 1 << 20 and set(big.tail()) <= set("x\n")


def test_children_left_behind_are_ended() -> None:
    pids: list[int] = []
    code = "import os, time\nif os.fork() == 0:\n    print(os.getpid()); time.sleep(600)\ntime.sleep(0.5)"
    done = follow(python(code), timeout_s=60, on_line=lambda line: pids.append(int(line)))
    assert done.returncode == 0 and done.seconds < 20
    assert len(pids) == 1 and not alive(pids[0])


def test_one_that_ignores_sigterm_is_killed() -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1)\ntime.sleep(600)"
    done = follow(python(code), timeout_s=2)
    assert done.timed_out and done.seconds < 20


def test_interruption_ends_the_group() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(
            python("import os, time\nprint(os.getpid())\ntime.sleep(600)"),
            timeout_s=60,
            on_line=on_line,
        )
    assert not alive(pids[0])


IMPATIENT = """
import os, sys
from harness.process import follow
code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
follow([sys.executable, "-u", "-c", code], timeout_s=60, on_line=lambda line: print(line, flush=True))
"""


def test_a_second_interruption_ends_the_group_at_once() -> None:
    """The first asks politely and waits; the second does not wait, and skips nothing."""
    with subprocess.Popen(
        python(IMPATIENT), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout
        pid = int(ours.stdout.readline())
        os.kill(ours.pid, signal.SIGINT)
        time.sleep(1)
        assert alive(pid) and ours.poll() is None
        start = time.monotonic()
        os.kill(ours.pid, signal.SIGINT)
        ours.wait(timeout=30)
        assert time.monotonic() - start < 3 and not alive(pid)


def test_a_log_that_cannot_be_written_costs_only_the_log(tmp_path: Path) -> None:
    for log in (tmp_path / "no" / "such" / "folder", Path("/dev/full")):
        done = follow(python("print('a'); print('b')"), timeout_s=30, log=log)
        assert done.returncode == 0 and done.tail == "a\nb"


def test_a_log_ends_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", 1 << 20)
    done = follow(
        python("for _ in range(40000): print('x' * 99)"), timeout_s=60, log=tmp_path / "log"
    )
    text = (tmp_path / "log").read_text()
    assert done.returncode == 0 and len(done.tail.splitlines()) == 400
    assert len(text) < (1 << 20) + 100 and text.endswith("(the log ends here, at 1 MiB)\n")


def test_endless_lines_come_in_pieces() -> None:
    done = follow(python("print('x' * 1_000_000, end='')"), timeout_s=60)
    assert max(map(len, done.tail.split("\n"))) == process.LINE_CHARS
    assert done.tail.count("x") == 1_000_000


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        follow(["no-such-program"], timeout_s=5)


def test_output_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    assert follow(python("print('µs ≈ 1')"), timeout_s=30).tail == "µs ≈ 1"


def test_floods_and_binary_output_do_no_harm() -> None:
    code = "import sys\nfor _ in range(20000): print('x' * 100)\nsys.stdout.buffer.write(b'\\xff\\xfe\\n')"
    done = follow(python(code), timeout_s=60)
    assert done.returncode == 0 and len(done.tail.splitlines()) == 400


def test_output_of() -> None:
    assert output_of(python("print(' hi ')")) == "hi"
    assert output_of(python("raise SystemExit(1)")) is None
    assert output_of(["no-such-command-here"]) is None
