"""The child of the solution that comes next: started while another is examined, as it takes seconds to import what it needs."""

from contextlib import ExitStack
from dataclasses import dataclass

from harness.verify.session import Fault, Session


@dataclass
class Waiting:
    """A child that waits, without its solution, until it is that one's turn."""

    solution: str
    """By name."""
    session: Session
    end: ExitStack
    """Ends the child, and removes what was made for it."""
    settled: bool = False

    def settle(self) -> None:
        """Wait, once, until it has imported what it needs. One that fails is killed, and replaced in its turn, not before: to
        end all that it has started could take away what the solution under examination has."""
        if not self.settled:
            self.settled = True
            try:
                self.session.settle()
            except (Fault, OSError):
                self.session.kill()

    def serve(self, solution: str, end: ExitStack) -> Session | None:
        """Its turn: the session, which now ends with `end`. None, and gone, where it waited for another or does not answer."""
        with self.end as own:
            if self.solution != solution:
                return None
            try:
                self.session.settle()
            except (Fault, OSError):  # not the solution's doing, as it was not loaded
                return None
            end.enter_context(own.pop_all())
        self.session.begin()
        return self.session
