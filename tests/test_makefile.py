"""What `make` does to environments: it sets up and mends its own, and leaves those of others as they are."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.paths import PROJECT

STUB = """#!/usr/bin/env bash
# Stands in for Python: makes what looks like a venv, and notes what it is asked for.
here=$(cd "$(dirname "$0")" && pwd)
echo "$*" >> "$here/calls"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg"
elif [ "$1 $2" = "-m pip" ] && [ -n "${NO_NETWORK:-}" ]; then
  exit 1
fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return new_checkout(tmp_path / "checkout")


def new_checkout(folder: Path) -> Path:
    """A project as far as the Makefile knows it, with a Python that installs nothing."""
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copyfile(PROJECT / name, folder / name)
    (folder / "python").write_text(STUB)
    (folder / "python").chmod(0o755)
    return folder


def make(checkout: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    hidden = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VENV", "PYTHON", "TARGET")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"LC_ALL": "C"} | extra
    defaults = ["TARGET=cpu", f"PYTHON={checkout / 'python'}"]
    return subprocess.run(
        ["make", "--no-print-directory", *defaults, *words],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
    )


def sets_up(checkout: Path, *words: str) -> None:
    """`make bench` runs, in an environment that is ready."""
    venv = checkout / next((w[5:] for w in words if w.startswith("VENV=")), ".venv")
    done = make(checkout, "bench", *words)
    assert done.returncode == 0, done.stderr
    assert (venv / "ready-cpu").exists()
    assert calls(venv)[-1].startswith("-m harness bench")


def calls(venv: Path) -> list[str]:
    return (venv / "bin" / "calls").read_text().splitlines()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def refuses(checkout: Path, venv: Path, *words: str) -> None:
    """Whatever would use or change that environment ends with 2 and one line, and changes nothing."""
    before = contents(venv)
    for goal in ("setup", "bench", "list", "test"):
        done = make(checkout, goal, *words)
        assert done.returncode == 2, f"{goal}: {done.stdout}{done.stderr}"
        (line,) = (x for x in done.stderr.splitlines() if not x.startswith("make: *** ["))
        assert line.startswith("error: VENV: ") and "only an empty VENV= uses" in line
    assert contents(venv) == before


def test_first_setup_and_the_next_call(checkout: Path) -> None:
    sets_up(checkout)
    number = len(calls(checkout / ".venv"))
    sets_up(checkout)
    assert len(calls(checkout / ".venv")) == number + 1, "what is ready is not set up again"


def test_an_interrupted_first_setup_goes_on(checkout: Path) -> None:
    assert make(checkout, "setup", NO_NETWORK="1").returncode == 2
    assert (checkout / ".venv" / "bin").is_dir() and not (checkout / ".venv" / "ready-cpu").exists()
    sets_up(checkout)


def test_a_setup_that_ended_before_there_was_a_venv_goes_on(checkout: Path) -> None:
    assert make(checkout, "setup", "PYTHON=/nowhere/python").returncode == 2
    assert list((checkout / ".venv").iterdir())
    sets_up(checkout)


def test_its_own_environment_is_brought_up_to_date(checkout: Path) -> None:
    """Also elsewhere than in .venv, and for the other target."""
    elsewhere = f"VENV={checkout.parent / 'elsewhere'}"
    for words in ([], [elsewhere]):
        sets_up(checkout, *words)
        os.utime(checkout / "pyproject.toml")
        sets_up(checkout, *words)
        done = make(checkout, "setup", *words, "TARGET=gpu")
        assert done.returncode == 0, done.stderr


def test_an_environment_from_before_the_mark(checkout: Path) -> None:
    sets_up(checkout)
    (checkout / ".venv" / "made-by").unlink()
    os.utime(checkout / "pyproject.toml")
    sets_up(checkout)
    assert (checkout / ".venv" / "made-by").read_text() == f"{checkout}\n"


def test_a_moved_checkout_keeps_its_environment(checkout: Path) -> None:
    sets_up(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    os.utime(moved / "pyproject.toml")
    sets_up(moved)


def test_an_empty_folder_is_as_good_as_none(checkout: Path) -> None:
    (checkout.parent / "empty").mkdir()
    sets_up(checkout, f"VENV={checkout.parent / 'empty'}")


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("newer", ["environment", "pyproject"])
def test_the_environment_of_another_checkout(checkout: Path, marked: bool, newer: str) -> None:
    """Whether or not anything would be installed, and also where it is older than made-by."""
    other = new_checkout(checkout.parent / "other")
    sets_up(other)
    if not marked:
        (other / ".venv" / "made-by").unlink()
    os.utime(
        other / ".venv" / "ready-cpu" if newer == "environment" else checkout / "pyproject.toml"
    )
    refuses(checkout, other / ".venv", f"VENV={other / '.venv'}")
    refuses(checkout, other / ".venv", "VENV=../other/.venv")
    (checkout / ".venv").symlink_to(other / ".venv")
    refuses(checkout, other / ".venv")


def test_an_environment_made_by_hand(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").touch()
    refuses(checkout, checkout / ".venv")


def test_an_empty_venv_uses_the_interpreter_as_it_is(checkout: Path) -> None:
    done = make(checkout, "bench", "VENV=")
    assert done.returncode == 0, done.stderr
    (call,) = (checkout / "calls").read_text().splitlines()
    assert call.startswith("-m harness bench") and not (checkout / ".venv").exists()


def test_clean_and_help_need_no_environment(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").touch()
    assert make(checkout, "help").returncode == 0
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
