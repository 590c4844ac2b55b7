"""Exit codes, and the one exception that carries a message for the user."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `python -m harness` exits with."""

    OK = 0
    """Every cell of the grid passed."""
    FAILED_CELLS = 1
    """Some solution failed or is missing from the grid."""
    USAGE = 2
    """The harness, the environment or the arguments are wrong."""
    REGRESSION = 3
    """`compare` found a regression."""
    INTEGRITY = 4
    """`verify` found a solution that breaks the rules."""
    INTERRUPTED = 130
    """Ctrl-C; the finished cells are in a record marked partial."""


class HarnessError(Exception):
    """Something the user can mend: the message is one line and names the file, the key and the fix.

    The command line prints it without a traceback and exits with `code`.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE):
        super().__init__(" ".join(message.split()))
        self.code = code
