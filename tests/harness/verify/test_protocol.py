"""The pipe between parent and child: whatever a solution writes into it, waiting for an answer ends."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.verify.protocol import ANSWER_BYTES, ANSWERS, ParentEnd


@contextmanager
def written(folder: Path, piece: bytes, pause_s: float) -> Iterator[None]:
    """Somebody writes `piece` as an answer again and again."""
    over = threading.Event()

    def write() -> None:
        file = os.open(folder / ANSWERS, os.O_RDWR | os.O_NONBLOCK)
        while not over.is_set():
            with suppress(BlockingIOError):
                os.write(file, piece)
            time.sleep(pause_s)
        os.close(file)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("piece", "pause_s", "error"),
    [(b"x" * 65536, 0.0001, ValueError), (b"x", 0.02, TimeoutError)],
    ids=["flood", "trickle"],
)
def test_an_answer_without_an_end_is_not_waited_for(
    tmp_path: Path, piece: bytes, pause_s: float, error: type[Exception]
) -> None:
    end = ParentEnd(tmp_path)
    start = time.monotonic()
    with written(tmp_path, piece, pause_s), pytest.raises(error):
        end.receive(60 if error is ValueError else 1, lambda: True)
    assert time.monotonic() - start < 50 and len(end._buffer) <= ANSWER_BYTES + 65536
    end.close()


def test_what_has_come_is_taken_though_the_time_is_up(tmp_path: Path) -> None:
    end = ParentEnd(tmp_path)
    with (tmp_path / ANSWERS).open("wb") as answers:
        answers.write(b'{"a": 1}\n{"b": 2}\n')
    assert end.receive(0, lambda: True) == {"a": 1} and end.receive(0, lambda: True) == {"b": 2}
    end.close()
