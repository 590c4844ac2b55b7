"""A write that fails, or is killed, leaves the old file; the next run in the folder removes what is left of the new one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.atomic import write_atomically
from harness.lock import folder_lock
from harness.paths import PROJECT


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_atomically(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]


KILLED = """
import os, sys
from pathlib import Path
from harness.atomic import write_atomically
os.fsync = lambda fd: os._exit(9)
write_atomically(Path(sys.argv[1]), "new")
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "charts" / "f"
    write_atomically(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, path], cwd=PROJECT, check=False)
    assert done.returncode == 9
    (left,) = (other for other in path.parent.iterdir() if other != path)
    assert left.read_text() == "new" and path.read_text() == "old"
    with folder_lock(tmp_path):
        assert list(path.parent.iterdir()) == [path] and path.read_text() == "old"
