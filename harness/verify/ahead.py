"""The children of solutions that come later: started while another is examined, as it takes seconds to import what they need, and
tens of seconds to compile some solutions."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass

from harness.environment import builds_at_once
from harness.manifest import Variant
from harness.verify.session import Fault, Session

BUILT_AHEAD = 5
"""Solutions at most that are built before their turn; each takes 1 GB of memory for a process with torch."""
AHEAD_CORES = 2
"""Processors for each of them. Rather few and many at a time than one after another: whoever is under examination when a build begins
waits for its end."""
BUILD_AHEAD_S = 240
"""Then they are left for their turn: whoever is under examination waits for them."""


@dataclass
class Waiting:
    """A child that waits until it is its solution's turn."""

    session: Session
    end: ExitStack
    """Ends the child, and removes what was made for it."""
    settled: bool = False

    def settle(self, until: float) -> bool:
        """Wait, once, until it has imported and built what it was to, and is at rest. One that fails, or dies later, is killed with all that
        it has started, and replaced in its turn.

        Args:
            until: by the monotonic clock.

        Returns:
            False, once, if it failed.
        """
        if self.settled:
            if not self.session.is_alive():
                self.session.kill()  # what it has let go of
            return True
        self.settled = True
        try:
            self.session.settle(max(1.0, until - time.monotonic()))
        except (Fault, OSError):
            self.session.kill()
            return False
        return True

    def serve(self, end: ExitStack) -> Session | None:
        """Its turn: the session, which now ends with `end`. None, and gone, where it does not answer."""
        with self.end as own:
            try:
                self.session.settle(BUILD_AHEAD_S)  # it may be building still
            except (Fault, OSError):  # whether that is the solution's doing shows in another child
                return None
            end.enter_context(own.pop_all())
        self.session.begin()
        return self.session


class Ahead:
    """All children that wait.

    Args:
        child: opens a solution's child, with these variables besides its usual ones.
        say: takes one line of progress.
    """

    def __init__(
        self,
        child: Callable[[Variant, Mapping[str, str]], AbstractContextManager[Session]],
        say: Callable[[str], None],
    ):
        self._child, self._say = child, say
        self.waiting: dict[str, Waiting] = {}
        """By solution."""

    def start(self, following: Sequence[Variant]) -> None:
        """Start the child of the solution that comes next: it imports what it needs, and waits without having loaded it. The children
        of the next few that are compiled anew in each process build them as well, side by side."""
        # One share of the processors is for the solution under examination.
        several = min(BUILT_AHEAD, builds_at_once(AHEAD_CORES) - 1)
        for variant in [other for other in following if other.is_compiled_anew][:several]:
            self._add(variant, builds=True)
        for variant in following[:1]:
            self._add(variant)

    def expect(self, variant: Variant) -> None:
        """Start the child of a solution, which imports what it needs and builds nothing."""
        self._add(variant)

    def _add(self, variant: Variant, builds: bool = False) -> None:
        if variant.name in self.waiting:
            return
        few = {"MAX_JOBS": os.environ.get("MAX_JOBS", str(AHEAD_CORES))}  # compilers of a build
        # What fails is started in its turn, where an error is its own.
        with suppress(OSError, Fault), ExitStack() as end:
            session = end.enter_context(self._child(variant, few if builds else {}))
            if builds:
                session.build_ahead(BUILD_AHEAD_S)
            self.waiting[variant.name] = Waiting(session, end.pop_all())

    def settle(self) -> None:
        """Wait until all are at rest; those that do not come to rest are ended."""
        until = time.monotonic() + BUILD_AHEAD_S
        for name, child in self.waiting.items():
            if not child.settle(until):
                self._say(
                    f"{name}: its process did not come to rest before its turn; another takes its place then"
                )

    def take(self, solution: str, end: ExitStack) -> Session | None:
        """The session of the child that waits for a solution's turn, which has come; it ends with `end`. None where there is none
        that answers."""
        waiting = self.waiting.pop(solution, None)
        return waiting.serve(end) if waiting else None

    def close(self) -> None:
        """End all."""
        for waiting in self.waiting.values():  # at once: they have nothing to finish
            waiting.session.kill()
        with ExitStack() as end:  # all of them, whatever goes wrong with one
            while self.waiting:
                end.enter_context(self.waiting.popitem()[1].end)
