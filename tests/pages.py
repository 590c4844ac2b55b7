"""The commands of a page of docs/, and a copy of the project in which a test runs them as a reader would.

Each block of commands says in its first line what it needs: ```bash for nothing but the set-up project, ```bash setup for the
set-up itself, which a copy gets from the environment of the tests, and ```bash gpu, network or offline-gpu.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness.paths import PROJECT
from tests.harness.folders import environment

KINDS = ("", "setup", "gpu", "network", "offline-gpu")
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".venv", "build", "scratch", "__pycache__", "*.egg-info", ".pytest_cache"),
    *(".ruff_cache", ".whl"),
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The kind and the commands of each block of a page, in order."""
    found = re.findall(r"(?ms)^```bash *(\S*)\n(.*?)^```$", page.read_text(encoding="utf-8"))
    unknown = {kind for kind, _ in found} - set(KINDS)
    assert not unknown, f"{page}: {unknown}: no such kind of block; there are {KINDS}"
    return found


def fresh_copy(folder: Path) -> Path:
    """The project as cloned and set up: its files, and a .venv that is the environment of the tests."""
    copy = folder / "clone"
    # What git has, so that a forgotten file is missed here and not by a reader; a copy without git is copied as it is.
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, text=True
    )
    names = listed.stdout.split("\0") if (PROJECT / ".git").exists() else []
    if names and listed.returncode == 0:
        for name in filter(None, names):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, copy / name)
    else:
        shutil.copytree(PROJECT, copy, ignore=LEFT_OUT)
    if in_venv():
        (copy / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith("ready-"):
                (copy / ".venv" / entry.name).symlink_to(entry)
        for target in ("cpu", "gpu"):  # newer than pyproject.toml: nothing is to be installed
            (copy / ".venv" / f"ready-{target}").touch()
    return copy


def in_venv() -> bool:
    """Whether the tests run in a virtual environment, without which there is no .venv to activate."""
    return sys.prefix != sys.base_prefix


def run_blocks(
    copy: Path, page: Path, kinds: tuple[str, ...], timeout: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the blocks of these kinds in one shell, which ends at the first command that fails.

    Args:
        variables: of the environment; make takes WORKLOADS and the like from it where the command line does not set them.
    """
    wanted = set(kinds) if in_venv() else set(kinds) - {"setup"}
    chosen = [text for kind, text in blocks(page) if kind in wanted]
    without_venv = {} if in_venv() else {"VENV": "", "PYTHON": sys.executable}
    env = environment(HOME=str(copy.parent), **without_venv, **variables)
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        env.pop(name, None)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH")]))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    return subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(chosen)],
        cwd=copy,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
