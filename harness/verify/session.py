"""The parent's side of one child: start it, ask it, read its outputs, and say how it died."""

import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.cells import anonymous, tail
from harness.paths import PROJECT
from harness.process import Background
from harness.record import Status
from harness.strays import is_running
from harness.verify.cases import Case, Weights, to_json
from harness.verify.protocol import OUTPUTS, Gone, Message, ParentEnd

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "moe-verify-"
ROOM_BYTES = 1 << 30
START_S = 120  # imports
BUSY_SHARE = 0.5  # processor seconds per second of a child that waits


class Fault(Exception):
    """The solution gave no output; the message says why, in one line.

    Args:
        log: what it said.
        status: how a benchmark would call it.
    """

    def __init__(self, message: str, log: str = "", status: Status = Status.RUNTIME_ERROR):
        super().__init__(message)
        self.log_tail = tail(log) or None
        self.status = status


class Died(Fault):
    """The child ended, or did not answer in time and was ended; the message says which."""


class OutOfTime(Died):
    """All commands together took too long, so the child was not waited for any more."""


class Refused(Fault):
    """The solution raised an exception; the message is its last line."""


class _Answer(dict[str, Any]):
    """An answer; asked for what it lacks, the process is as good as dead: a solution may have written it."""

    def __missing__(self, key: str) -> Any:
        raise Died(f"its process answered without {key!r}")


class Session:
    """One running child. A context manager: the process and its folder end with the block.

    Args:
        arguments: of the child, after its folder.
        wrapper: a command that runs the child, such as compute-sanitizer.
        timeout_s: limit for each command.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        timeout_s: float,
        wrapper: Sequence[str] = (),
    ):
        self._timeout = timeout_s
        remove_leftovers()
        where = SHARED_MEMORY if _has_room(SHARED_MEMORY) else None
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=where))
        command = [
            *wrapper,
            sys.executable,
            "-m",
            "harness.verify.child",
            str(self._folder),
            *arguments,
        ]
        self._process = Background(command, env=env, cwd=PROJECT)
        self._end: ParentEnd | None = None
        self._files = 0
        self._deadline = math.inf
        self._building_until: float | None = None
        """Deadline of the build that was asked for ahead and has no answer yet."""
        self._is_built = False

    def __enter__(self) -> "Session":
        try:
            self._end = ParentEnd(self._folder)
            self._process.__enter__()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._process.__exit__(*error)
        finally:
            if self._end is not None:
                self._end.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, op: str, timeout_s: float | None = None, **arguments: Any) -> Message:
        """Have one command carried out.

        Args:
            timeout_s: instead of the session's limit.

        Raises:
            OSError: the child could not write an output, which is no doing of the solution.
            Died: the process ended first, took too long, or has lost its GPU context.
            OutOfTime: `limit` was reached.
            Refused: the solution, or what the child did with its result, raised an exception.
        """
        self._finish_build()
        return self._ask({"op": op, **arguments}, self._timeout if timeout_s is None else timeout_s)

    def build_ahead(self, timeout_s: float) -> None:
        """Have the solution built without waiting: whatever is asked next waits for that first, until `timeout_s` from now at most.

        Raises:
            Died: the child takes no command.
        """
        try:
            self._send({"op": "build"}, timeout_s)
        except (Gone, TimeoutError):
            raise Died(self._death(), self.tail()) from None
        self._building_until = time.monotonic() + timeout_s

    def build(self, timeout_s: float) -> None:
        """Have the solution built, if that has not been done ahead.

        Raises:
            Died, Refused: as for any command.
        """
        self._finish_build()
        if not self._is_built:
            self.ask("build", timeout_s=timeout_s)

    def _finish_build(self) -> None:
        until, self._building_until = self._building_until, None
        if until is not None:
            self._ask(None, max(0.0, until - time.monotonic()))
            self._is_built = True

    def _ask(self, message: Message | None, limit: float) -> Message:
        """Have a command carried out; None: take the answer to one that has been sent."""
        assert self._end is not None
        left = self._deadline - time.monotonic()
        try:
            if message is not None:
                self._send(message, min(limit, left))
            answer = self._end.receive(min(limit, left), self.is_alive)
        except Gone:
            raise Died(self._death(), self.tail()) from None
        except TimeoutError:
            if left < limit:
                why = "the time for all of its checks is up"
                raise OutOfTime(why, self.tail(), Status.TIMEOUT) from None
            raise Died(f"no answer within {limit:.0f} s", self.tail(), Status.TIMEOUT) from None
        except ValueError as error:
            raise Died(f"its process answered with what is no answer ({error})") from None
        if "cannot_write" in answer:
            try:
                number = int(answer["cannot_write"])
                why = os.strerror(number)
            except (ValueError, TypeError, OverflowError):  # a solution may have written it
                raise Died("its process answered with what is no answer") from None
            raise OSError(number, why, str(self._folder))
        if "error" in answer:
            why = _last_line(str(answer["error"]))
            if answer.get("over"):
                raise Died(f"{why} (the GPU takes no more calls)", self.tail())
            raise Refused(why, self.tail())  # the child has printed the traceback
        return _Answer(answer)

    def _send(self, message: Message, timeout_s: float) -> None:
        assert self._end is not None
        self._end.send(message, timeout_s, self.is_alive)

    def settle(self, timeout_s: float = START_S) -> None:
        """Wait until the child has imported what it needs, and built its solution if it was asked to.

        Raises:
            Fault: it has not come so far, does not answer what it is asked, or its solution is at work although nothing is asked.
        """
        mark = secrets.token_hex(8)
        if self._building_until is not None:
            self._building_until = min(self._building_until, time.monotonic() + timeout_s)
        if self.ask("ready", timeout_s=timeout_s, mark=mark)["mark"] != mark:
            raise Died("its process answered something else")
        if self._is_built and (self.child_processes() or self.busy_share() > BUSY_SHARE):
            raise Died("its solution is at work although nothing is asked")

    def kill(self) -> None:
        """End the child at once, with all that it has started; its folder goes with the block."""
        self._process.kill_all()

    def begin(self) -> None:
        """Its turn begins, for which it may have waited beside another child."""
        self._process.disown_others()

    def limit(self, seconds: float) -> None:
        """From now on all commands together get `seconds`, or what an earlier limit leaves."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def extend(self, seconds: float) -> None:
        """Leave that much more time for all commands together: they had to wait for something else."""
        self._deadline += seconds

    def inputs(self, slot: str, case: Case, weights: str, in_place: bool = False) -> None:
        self.ask("inputs", slot=slot, case=to_json(case), weights=weights, in_place=in_place)

    def weights(self, name: str, spec: Weights, in_place: bool = False) -> None:
        self.ask("weights", name=name, spec=to_json(spec), in_place=in_place)

    def file(self) -> str:
        """A name for an output that no earlier one had."""
        self._files += 1
        return f"output-{self._files}"

    def read(self, name: str, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """What the child wrote under `name`, flat; the file is removed.

        Raises:
            Died: there is no such file.
        """
        path = self._folder / OUTPUTS / name
        try:
            data = bytearray(path.read_bytes())
            path.unlink()
        except OSError as error:
            raise Died(f"its process handed over no output ({error.strerror})") from None
        if not data:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype)

    def child_processes(self) -> int:
        """Live processes that the child started, as the kernel counts them. What they let go of stays below it."""
        found, layer = len(self._process.strays()), [self._process.pid]
        while layer:
            below = []
            for pid in layer:
                for path in Path(f"/proc/{pid}/task").glob("*/children"):
                    try:
                        below += [int(word) for word in path.read_text().split()]
                    except (OSError, ValueError):
                        continue
            found += sum(map(is_running, below))  # it reaps none that it has adopted
            layer = below
        return found

    def busy_share(self, seconds: float = 0.3) -> float:
        """Processor seconds per second that the child uses while it has nothing to do."""
        before = self._processor_s()
        start = time.monotonic()
        time.sleep(seconds)
        return (self._processor_s() - before) / (time.monotonic() - start)

    def tail(self) -> str:
        return self._process.tail()

    def returncode_soon(self, seconds: float = 20.0) -> int | None:
        """Close the pipes, so that the child ends by itself, and return its exit code."""
        assert self._end is not None
        self._end.close()
        self._end = None
        deadline = time.monotonic() + seconds
        while self._process.returncode() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._process.returncode()

    def _processor_s(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.returncode() is None

    def _death(self) -> str:
        code = self._process.returncode()
        said = _last_line(self._process.tail())
        said = f"; it last said: {said}" if said else ""
        if code is not None and code < 0:
            return f"its process was killed by signal {-code}{said}"
        return f"its process exited with {code} in the middle of its work{said}"


def _has_room(folder: Path) -> bool:
    """Containers often have 64 MB of shared memory, less than one large output."""
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= ROOM_BYTES


def remove_leftovers() -> None:
    """Remove the folders of parents that were killed."""
    for folder in SHARED_MEMORY.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return anonymous(lines[-1])[:300] if lines else ""
