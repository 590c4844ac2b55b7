"""The child of a solution that comes later: started while another is examined, as it takes seconds to import what it needs."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from harness.verify.session import Fault, Session


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
                self.session.settle()
            except (Fault, OSError):  # whether that is the solution's doing shows in another child
                return None
            end.enter_context(own.pop_all())
        self.session.begin()
        return self.session
