"""The one module that starts processes: output is followed live, and nothing outlives its time limit."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 400
TAIL_CHUNKS = 16  # of at most 64 KiB each
GRACE_S = 5.0


@dataclass(frozen=True)
class Finished:
    """How a process ended."""

    returncode: int | None
    """None when it was killed at its time limit."""
    tail: str
    """Its last lines, stdout and stderr as they came."""
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.returncode is None


def follow(
    args: Sequence[str],
    *,
    timeout_s: float,
    idle_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Finished:
    """Run `args` in a process group of its own and hand over each line of its output as it comes.

    The whole group is killed when the limit is reached, when this process is interrupted, and at the end, so that no
    worker is left holding a GPU.

    Args:
        timeout_s: wall-clock limit in seconds.
        idle_s: limit in seconds from one line of output to the next, counted from the first line on.
        log: a file that keeps the whole output.
        on_line: called for each line, without its newline.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        list(args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=None if env is None else dict(env),
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    sink = log.open("a") if log else None
    timed_out = False
    last_line: float | None = None
    try:
        while True:
            left = start + timeout_s - time.monotonic()
            if idle_s is not None and last_line is not None:
                left = min(left, last_line + idle_s - time.monotonic())
            if left <= 0:
                timed_out = True
                break
            try:
                line = lines.get(timeout=min(left, 0.5))
            except queue.Empty:
                # A grandchild may hold the pipe open after the process itself is gone.
                if process.poll() is not None and lines.empty():
                    break
                continue
            if line is None:
                break
            last_line = time.monotonic()
            tail.append(line)
            if sink:
                sink.write(line + "\n")
                sink.flush()
            on_line(line)
        if not timed_out:
            try:
                process.wait(timeout=max(0.1, start + timeout_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                timed_out = True
    finally:
        _kill_group(process)
        if sink:
            sink.close()
    seconds = time.monotonic() - start
    return Finished(None if timed_out else process.returncode, "\n".join(tail), seconds)


def output_of(args: Sequence[str], cwd: Path | None = None) -> str | None:
    """What a short command prints, stripped; None when it is absent or fails."""
    try:
        done = subprocess.run(
            list(args), cwd=cwd, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Background:
    """A process that is talked to while it runs; it and its group end with the block.

    What it prints is read all the time, so that it never waits for a reader; only the end is kept.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ):
        self._args = list(args)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._tail: deque[bytes] = deque(maxlen=TAIL_CHUNKS)

    def __enter__(self) -> "Background":
        self._process = subprocess.Popen(
            self._args,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        _kill_group(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines that it printed."""
        self._reader.join(timeout=0.2)
        text = b"".join(self._tail).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def _drain(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            while chunk := os.read(self._process.stdout.fileno(), 1 << 16):
                self._tail.append(chunk)


def _pump(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
    except ValueError:
        pass  # the pipe was closed under us, after the group was killed
    lines.put(None)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End every process of the group: first politely, then not."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except (ProcessLookupError, PermissionError):
            break
        deadline = time.monotonic() + GRACE_S
        while sig == signal.SIGTERM and time.monotonic() < deadline and _group_alive(process):
            time.sleep(0.05)
    process.wait()


def _group_alive(process: subprocess.Popen[str]) -> bool:
    process.poll()  # reap the leader, or it counts as alive
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
