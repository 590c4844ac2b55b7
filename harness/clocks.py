"""Looks at the GPU's clocks in the course of a run, to warn of what held them down: whenever a result has come, since asking while
a call is timed would become part of it. What holds clocks down for less long than a workload takes can go unseen."""

import time
from collections import Counter

from harness.environment import gpu_state

EVERY_S = 2.0  # asking the driver takes milliseconds


class ClockWatch:
    """Counts why clocks were held down, over looks at least EVERY_S apart."""

    def __init__(self, index: int):
        self._index = index
        self._last: float | None = None
        self._looks = 0
        self._reasons: Counter[str] = Counter()

    def look(self) -> None:
        """Ask the driver now, unless it was asked a moment ago."""
        now = time.monotonic()
        if self._last is not None and now - self._last < EVERY_S:
            return
        self._last = now
        state = gpu_state(self._index)
        self._looks += 1
        self._reasons.update(state.throttle_reasons if state else [])

    def warnings(self) -> list[str]:
        """A sentence for each reason that was seen."""
        return [
            f"Clocks were held down during the run: {reason}, at {times} of {self._looks} looks at the GPU."
            for reason, times in self._reasons.items()
        ]
