"""The parent asks the child for nothing that it does not do: commands that only a GPU carries out run nowhere else."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import verify
from harness.verify.child import Child

SOURCES = sorted(Path(verify.__file__).parent.rglob("*.py"))
OF_THE_SESSION = {"timeout_s"}
"""Arguments of `Session.ask` itself."""


def asked() -> Iterator[tuple[str, str, list[str]]]:
    """Where, which command and with what arguments, of every `ask("<command>", ...)` in harness/verify/."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(attr="ask"), [ast.Constant(command)], keywords):
                    names = [k.arg for k in keywords if k.arg not in OF_THE_SESSION]
                    yield f"{path.name}:{node.lineno}", command, names


ASKED = list(asked())


@pytest.mark.parametrize(
    ("command", "arguments"), [a[1:] for a in ASKED], ids=[f"{a[0]}-{a[1]}" for a in ASKED]
)
def test_child_takes_what_it_is_asked(command: str, arguments: list[str]) -> None:
    carry_out = inspect.signature(getattr(Child, f"do_{command}"))
    carry_out.bind(None, **dict.fromkeys(arguments))


def test_every_command_is_asked_for() -> None:
    commands = {name.removeprefix("do_") for name in dir(Child) if name.startswith("do_")}
    assert commands == {command for _, command, _ in ASKED}
