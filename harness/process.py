"""The one module that starts processes: output is followed live, and nothing outlives its call or its time limit."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TextIO

from harness.strays import (
    adopt_orphans,
    die_with_parent,
    end_strays,
    keep_orphans,
    kill_below,
    strays_of,
)

TAIL_LINES = 400
TAIL_BYTES = 1 << 20
LINE_CHARS = (
    1 << 16
)  # a longer line comes in pieces: output without any newline must not fill memory
LOG_BYTES = 64 << 20  # nor must a loop that prints fill the disk
TICK_S = 0.25
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
    progress: Callable[[], object] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Finished:
    """Run `args` in a process group of its own and hand over each line of its output as it comes.

    The whole group is ended when the limit is reached, when this process is interrupted, and at the end, so that no
    worker is left holding a GPU. On Linux so is every descendant that left the group.

    Args:
        timeout_s: wall-clock limit in seconds.
        idle_s: limit in seconds without progress.
        progress: asked a few times a second, whatever the process prints; `idle_s` runs from its first answer that is
            not None, and anew whenever the answer changes. Without it, each line of output is progress.
        log: a file that keeps the output, up to LOG_BYTES; that it cannot be written does not end the process.
        on_line: called for each line, without its newline.

    Raises:
        OSError: the program cannot be started.
    """
    start = time.monotonic()
    sink = _Log(log)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    timed_out = output_ended = False
    lines_seen = 0
    last_answer: object = None
    last_progress = start
    next_question = start
    before = adopt_orphans()

    try:
        process = subprocess.Popen(
            list(args),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # A child that prints or reads what is not ASCII must not fail over this machine's locale.
            env={**(os.environ if env is None else env), "PYTHONUTF8": "1"},
            cwd=cwd,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except BaseException:
        sink.close()
        raise
    # Bounded: one that prints faster than it is read waits, as it would on a terminal.
    lines: queue.Queue[str | None] = queue.Queue(maxsize=10_000)
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()

    def take(line: str) -> None:
        tail.append(line)
        sink.write(line)
        on_line(line)

    try:
        while process.poll() is None:
            now = time.monotonic()
            if now >= next_question:
                next_question = now + TICK_S
                answer = progress() if progress else lines_seen or None
                if answer != last_answer:
                    last_answer, last_progress = answer, now
            left = start + timeout_s - now
            if idle_s is not None and last_answer is not None:
                left = min(left, last_progress + idle_s - now)
            if left <= 0:
                timed_out = True
                break
            try:
                line = lines.get(timeout=min(left, TICK_S))
            except queue.Empty:
                continue
            if line is None:  # most end so, but one may close its output and go on
                output_ended = True
                _wait(process, min(left, TICK_S))
                continue
            lines_seen += 1
            take(line)
        # Whoever is left holds the pipe open: end them, then read what the pipe still has.
        _end(process, before)
        deadline = time.monotonic() + GRACE_S
        while not output_ended and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=left)
                output_ended = line is None
                if line is not None:
                    take(line)
    finally:
        _end(process, before)
        sink.close()
    seconds = time.monotonic() - start
    return Finished(None if timed_out else process.returncode, "\n".join(tail), seconds)


def output_of(args: Sequence[str], cwd: Path | None = None) -> str | None:
    """What a short command prints, stripped; None when it is absent or fails."""
    try:
        done = subprocess.run(
            list(args),
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Background:
    """A process that is talked to while it runs; it and its group end with the block. What it lets go of stays below it while it lives.

    What it prints is read all the time, so that it never waits for a reader; only the end is kept.
    """

    _running: ClassVar[set[int]] = set()
    """Of all that run at the same time: none of them, nor what is below it, is a stray of another."""

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
        self._tail = bytearray()

    def __enter__(self) -> "Background":
        self._before = adopt_orphans()
        self._process = subprocess.Popen(
            self._args,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**(os.environ if self._env is None else self._env), "PYTHONUTF8": "1"},
            cwd=self._cwd,
            start_new_session=True,
            preexec_fn=_below_us,
        )
        self._running.add(self.pid)
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _end(self._process, self._before | self._running)
        finally:
            self._running.discard(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def strays(self) -> set[int]:
        """Processes that it started and that are not below it any more."""
        return strays_of(self.pid, self._before | self._running)

    def kill_all(self) -> None:
        """Kill the process and all that is below it at once, compilers in groups of their own as well; and, where it has died, what it
        has let go of by that: what is neither below another in the background nor was there before it."""
        if self.returncode() is None:
            kill_below(self.pid)
            _wait(self._process, GRACE_S)
        end_strays(self._before | self._running)

    def disown_others(self) -> None:
        """Hold it to account for no process that is there now, except those below it."""
        self._before = strays_of(self.pid, set())

    def tail(self) -> str:
        """The last lines that it printed."""
        self._reader.join(timeout=0.2)
        text = bytes(self._tail).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def _drain(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            while chunk := os.read(self._process.stdout.fileno(), 1 << 16):
                self._tail += chunk
                del self._tail[:-TAIL_BYTES]


def _below_us() -> None:
    """Between fork and exec of a process in the background."""
    die_with_parent()
    keep_orphans()


class _Log:
    """A log file that never stands in the way of what it logs: full, absent or unwritable, the process goes on."""

    def __init__(self, path: Path | None):
        self._file: TextIO | None = None
        self._left = LOG_BYTES
        if path is not None:
            with contextlib.suppress(OSError):
                self._file = path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        if self._file is None:
            return
        self._left -= len(line) + 1
        if self._left < 0:
            line = f"(the log ends here, at {LOG_BYTES >> 20} MiB)"
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError:
            self._left = -1
        if self._left < 0:
            self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _pump(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    try:
        while line := process.stdout.readline(LINE_CHARS):
            lines.put(line.rstrip("\n"))
    except (ValueError, OSError):
        pass  # the pipe was closed under us, after the group was killed
    lines.put(None)


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


def _end(process: subprocess.Popen[str], before: set[int]) -> None:
    """End the process, its group and, on Linux, whatever else it started: first politely, then not.

    Args:
        before: descendants of this process from before the call, which are none of its business.
    """
    try:
        if _signal_group(process, signal.SIGTERM):
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and _group_alive(process):
                time.sleep(0.05)
    finally:
        # An impatient second Ctrl-C comes here at once, and a third one waits until nothing is left.
        with _deferred_interrupts():
            _signal_group(process, signal.SIGKILL)
            _wait(process, GRACE_S)
            end_strays(before | {process.pid})


def _signal_group(process: subprocess.Popen[str], sig: signal.Signals) -> bool:
    try:
        os.killpg(process.pid, sig)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _group_alive(process: subprocess.Popen[str]) -> bool:
    if (
        process.poll() is not None
    ):  # the leader is reaped; so must be what we adopted, or it counts as alive
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-process.pid, os.WNOHANG)[0]:
                pass
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _deferred_interrupts() -> Iterator[None]:
    """Hold what interrupts us back until the block is done."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
