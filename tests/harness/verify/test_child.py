"""The child's commands: each is asked for as it is written, which shows nowhere else for those that only a GPU carries out."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import verify
from harness.paths import Paths
from harness.plan import Request, make_plan
from harness.verify.child import Child
from harness.verify.inputs import WEIGHT_NAMES
from harness.verify.judge import Judge
from tests.cheats.suite import CHEATS

SOURCES = sorted(Path(verify.__file__).parent.rglob("*.py"))
OF_THE_SESSION = {"timeout_s"}
"""Arguments of `Session.ask` itself."""


def is_ask(node: ast.AST) -> bool:
    """Whether it is a call of a session's `ask`; the pipe's own takes a whole message."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "ask"
        and ast.unparse(node.func.value) in ("self", "self.session", "exam.session")
    )


def asked() -> Iterator[tuple[str, str, list[str]]]:
    """Where, which command and with what arguments, of every `ask("<command>", ...)` in harness/verify/."""
    for path in SOURCES:
        for node in filter(is_ask, ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
            match node:
                case ast.Call(args=[ast.Constant(command)], keywords=keywords):
                    names = [k.arg for k in keywords if k.arg not in OF_THE_SESSION]
                    assert None not in names, f"{path}:{node.lineno}: spell the arguments out"
                    yield f"{path.name}:{node.lineno}", command, names
                case _:
                    raise AssertionError(f"{path}:{node.lineno}: name the command")


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


def test_calls_leave_the_inputs_alone(tmp_path: Path) -> None:
    """The parent's clock goes by them, and what comes after it counts on the weights; a burst does write into them."""
    request = Request(["control_stateless"], backend="cpu", run="r")
    plan = make_plan(request, Paths(solutions=CHEATS, results=tmp_path))
    judge = Judge(plan, "full", 5, print)
    with judge._opened(plan.variants[0]) as exam:
        judge._load(exam)
        exam.inputs("timed", exam.case(3, "timed"))

        def sums() -> list[int]:
            found = exam.session.ask("checksums", slot="timed", names=WEIGHT_NAMES, seed=1)
            return list(found["sums"].values())

        before = sums()
        exam.session.ask("calls", slot="timed", calls=3)
        assert sums() == before
        exam.session.ask("burst", slot="timed", calls=3, fresh=True)
        assert sums() != before
