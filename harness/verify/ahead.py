"""The child of a solution that comes later: started while another is examined, as it takes seconds to import what it needs."""

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

    def settle(self) -> None:
        """Wait, once, until it has imported and built what it was to. One that fails is killed, and replaced in its turn, not before: to
        end all that it has started could take away what the solution under examination has."""
        if not self.settled:
            self.settled = True
            try:
                self.session.settle()
            except (Fault, OSError):
                self.session.kill()

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
