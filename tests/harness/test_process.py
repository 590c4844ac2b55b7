"""Processes: output is followed live, limits hold for the whole group, nothing survives."""

import os
import sys
import time
from pathlib import Path

import pytest

from harness.process import follow, output_of


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


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


def test_floods_and_binary_output_do_no_harm() -> None:
    code = "import sys\nfor _ in range(20000): print('x' * 100)\nsys.stdout.buffer.write(b'\\xff\\xfe\\n')"
    done = follow(python(code), timeout_s=60)
    assert done.returncode == 0 and len(done.tail.splitlines()) == 400


def test_output_of() -> None:
    assert output_of(python("print(' hi ')")) == "hi"
    assert output_of(python("raise SystemExit(1)")) is None
    assert output_of(["no-such-command-here"]) is None
