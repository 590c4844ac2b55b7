"""One run at a time on a GPU, one writer at a time in a run's folder, and no lock of a builder that is gone."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.atomic import remove_partial
from harness.environment import Gpu
from harness.errors import HarnessError

POLL_S = 0.2


@contextmanager
def gpu_lock(
    gpu: Gpu | None, run_id: str, wait: bool, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold the GPU while the block runs; nothing without one. The kernel lets go of it when this process ends, however.

    Args:
        run_id: who holds it, for others to see.
        wait: False: refuse instead of waiting.
        say: takes the line that says what is waited for.

    Raises:
        HarnessError: another run holds it and `wait` is False.
    """
    if gpu is None:
        yield
        return
    # In the machine's folder for such files, so that runs of other checkouts and users are seen, too.
    path = Path(tempfile.gettempdir()) / f"moe-bench-{gpu.info.uuid or gpu.index}.lock"
    with _open(path) as file:
        if not _try(file):
            holder = f"GPU {gpu.index} ({gpu.info.name}) is in use by {_holder(path)}"
            if not wait:
                raise HarnessError(f"GPU: {holder}; wait for it, or leave out --no-wait")
            say(f"waiting: {holder}")
            while not _try(file):
                time.sleep(POLL_S)
        _sign(file, run_id)
        yield


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder while the block runs, without what a killed run left half written.

    Raises:
        HarnessError: another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _open(path) as file:
        if not _try(file):
            raise HarnessError(
                f"{folder}: {_holder(path)} is writing there; wait until it has ended"
            )
        _sign(file, folder.name)
        remove_partial(folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, as after any run that began
                folder.rmdir()


def drop_abandoned(kernels: Path) -> None:
    """Remove the locks that torch's builder left below `kernels` when it was killed: each later build would wait for ever.

    A builder keeps its lock open while it builds, and closes it a moment before it removes it: hence two looks. Builders of
    another host or user are not seen: they are to have a checkout of their own.
    """
    left = [lock for lock in kernels.glob("torch/*/lock") if not _is_open(lock)]
    if left:
        time.sleep(POLL_S)
    for lock in left:
        if not _is_open(lock):
            with suppress(OSError):  # gone, or not ours
                lock.unlink()


def _is_open(path: Path) -> bool:
    """Whether a process has the file open, as far as this one may see; taken to be so where the system does not tell."""
    try:
        wanted = path.stat()
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return True
    for process in processes:
        with suppress(OSError):  # of another user, or gone meanwhile
            for number in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if os.path.samestat(os.stat(f"/proc/{process}/fd/{number}"), wanted):
                        return True
    return False


@contextmanager
def _open(path: Path) -> Iterator[int]:
    mask = os.umask(0)  # other users must be able to lock it, too
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        file = os.open(
            path, flags
        )  # Linux may refuse O_CREAT on another user's file in a shared folder
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT, 0o666)
    finally:
        os.umask(mask)
    try:
        yield file
    finally:
        os.close(file)


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: int, run_id: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()}, run {run_id}".encode(), 0)


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
