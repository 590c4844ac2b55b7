"""Files that a reader, or a crash, never meets half written."""

import os
import tempfile
from pathlib import Path

PARTIAL = ".part"  # ending of what is not whole yet


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` with `text` so that a reader, or a crash, never meets half a file.

    Raises:
        OSError: the folder or the file cannot be written, or the disk is full; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # of write or fsync
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, and below it, that nobody else writes in now."""
    for path in folder.rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)
