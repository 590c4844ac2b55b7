"""Which processes there are."""

from pathlib import Path


def alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def running(words: str) -> list[int]:
    """Ids of the processes whose command line holds `words`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and alive(int(entry.parent.name)):
            found.append(int(entry.parent.name))
    return found
