"""How parent and child talk: one JSON object a line over two named pipes in a folder of their own.

The parent sends commands and names the files for outputs; the child answers each command with one line. Whatever the
solution prints goes to standard output and is no part of this.
"""

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = "commands"
ANSWERS = "answers"
ANSWER_BYTES = 1 << 20
"""More than any command's answer has."""
OUTPUTS = "outputs"

Message = dict[str, Any]


class Gone(Exception):
    """The other side has ended."""


class ParentEnd:
    """The parent's end: sends a command and waits for its answer."""

    def __init__(self, folder: Path):
        for name in (COMMANDS, ANSWERS):
            os.mkfifo(folder / name)
        (folder / OUTPUTS).mkdir()
        # Open for both directions, so that opening waits for nobody; that the child is gone is asked of the process.
        self._commands = os.open(folder / COMMANDS, os.O_RDWR | os.O_NONBLOCK)
        self._answers = os.open(folder / ANSWERS, os.O_RDWR | os.O_NONBLOCK)
        self._buffer = b""

    def send(self, message: Message, timeout_s: float, alive: Callable[[], bool]) -> None:
        """Send one command.

        Raises:
            Gone: the child ended first.
            TimeoutError: it was not taken within `timeout_s` seconds.
        """
        data = json.dumps(message).encode() + b"\n"
        deadline = time.monotonic() + timeout_s
        while data:
            self._wait(self._commands, select.POLLOUT, deadline, alive)
            try:
                data = data[os.write(self._commands, data) :]
            except BlockingIOError:
                continue

    def receive(self, timeout_s: float, alive: Callable[[], bool]) -> Message:
        """The answer to the oldest command that has none yet.

        Raises:
            Gone: the child ended first.
            TimeoutError: no answer within `timeout_s` seconds.
            ValueError: what came is no answer.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._wait(self._answers, select.POLLIN, deadline, alive)
            try:
                self._buffer += os.read(self._answers, 1 << 16)
            except BlockingIOError:
                continue
            # A solution may write there, too, and never end the line.
            if len(self._buffer) > ANSWER_BYTES:
                raise ValueError("an answer without an end")
            if b"\n" not in self._buffer and time.monotonic() > deadline:
                raise TimeoutError
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("an answer is no JSON object")
        return answer

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)

    @staticmethod
    def _wait(fd: int, event: int, deadline: float, alive: Callable[[], bool]) -> None:
        poll = select.poll()
        poll.register(fd, event)
        while not poll.poll(50):
            if not alive() and not poll.poll(0):
                raise Gone
            if time.monotonic() > deadline:
                raise TimeoutError


class ChildEnd:
    """The child's end: reads commands until the parent is gone."""

    def __init__(self, folder: Path):
        self._commands = (folder / COMMANDS).open("rb", buffering=0)
        self._answers = (folder / ANSWERS).open("wb", buffering=0)
        self._buffer = b""

    def receive(self) -> Message | None:
        """The next command; None when the parent has ended."""
        while b"\n" not in self._buffer:
            chunk = self._commands.read(1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def answer(self, message: Message) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[self._answers.write(data) :]
