"""Processes that left the group of the one that started them, and how they are ended all the same.

A process that calls setsid leaves its group, and when its parent ends nothing ties it to us any more. Linux lets us adopt
such orphans, so that whatever was started stays below us in the process tree. Elsewhere none of this does anything.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
LIMIT_S = 5.0


_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None  # loaded before any fork


def die_with_parent() -> None:
    """For a child between fork and exec: the kernel kills it when the thread that started it ends, however it ends."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def keep_orphans() -> None:
    """From now on, orphaned descendants of this process stay below it; also for a child between fork and exec."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_below(pid: int) -> None:
    """Kill every descendant of a process, in whatever group, and then the process itself. Gives up after LIMIT_S."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # it starts no more meanwhile
    deadline = time.monotonic() + LIMIT_S
    found: set[int] = set()
    while time.monotonic() < deadline:
        below = _descendants(but=set(), of=pid)
        found |= below
        running = set(filter(is_running, below))
        if not running:
            break
        for child in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while found and time.monotonic() < deadline:  # they become ours, and would be another's strays
        time.sleep(0.01)
        for child in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
        found = {child for child in found if Path(f"/proc/{child}").exists()}


def is_running(pid: int) -> bool:
    """Whether it is there, and no zombie that nobody has reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] != b"Z"


def adopt_orphans() -> set[int]:
    """Become the parent of orphaned descendants; returns the ids of the descendants that are there already."""
    if _libc is None:
        return set()
    keep_orphans()
    return _descendants(but=set())


def strays_of(pid: int, others: set[int]) -> set[int]:
    """Descendants of this process that are neither `others` nor below them, nor `pid` nor below it: what `pid` let go of."""
    return _descendants(but=others | {pid})


def end_strays(others: set[int]) -> None:
    """Kill and reap every descendant of this process that is not among `others` nor below one of them.

    Each round finds what the victims of the last one had just started. Gives up after LIMIT_S: what is stuck in a
    driver cannot be killed.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        strays = _descendants(but=others)
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):  # it is still its parent's, another stray
                os.waitpid(pid, os.WNOHANG)


def _descendants(but: set[int], of: int | None = None) -> set[int]:
    """Ids of the processes below this one, zombies that nobody has reaped included; empty without /proc.

    Args:
        but: left out, with all that is below them.
        of: below that process instead.
    """
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; state and parent follow the last of them.
            fields = entry.read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), set()).add(int(entry.parent.name))
        except (OSError, IndexError, ValueError):  # it ended while we looked
            continue
    found: set[int] = set()
    layer = children.get(os.getpid() if of is None else of, set()) - but
    while layer:
        found |= layer
        layer = set().union(*(children.get(pid, set()) for pid in layer)) - but - found
    return found
