"""What one solution may cost: a slow one is given up, and one that has failed is not examined for long."""

import time
from pathlib import Path

import pytest

from harness.paths import Paths
from harness.plan import Plan, Request, make_plan
from harness.record import Verification
from harness.verify import judge
from harness.verify.checks import Check
from harness.verify.exam import Exam
from tests.harness.folders import write_solution

SLOW = "import time\nfrom tests.cheats.honest import moe\n\ndef run(*inputs):\n    time.sleep(0.4)\n    return {}\n"


def short_verdict(tmp_path: Path, result: str) -> Verification:
    write_solution(tmp_path / "solutions", "slow", SLOW.format(result))
    paths = Paths(solutions=tmp_path / "solutions", results=tmp_path / "results")
    plan: Plan = make_plan(Request(["slow"], backend="cpu", run="r"), paths)
    return judge.Judge(plan, "short", 5, print).verify(plan.variants[0])


def test_after_a_fault_what_does_not_fit_its_time_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "FAILED_S", 2)
    found = short_verdict(tmp_path, "moe(*inputs) * 2")
    late = [c for c in found.checks if c.outcome == "not_run"]
    assert len(late) > 10 and {c.detail for c in late} == {f"after {found.failed[-1].name}"}
    assert "time" not in " ".join(c.detail for c in found.failed), "no fault but the outputs"
    assert found.seconds < 20


def test_a_slow_solution_fails_the_check_in_which_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(judge.SOLUTION_S, "cpu", 3)
    found = short_verdict(tmp_path, "moe(*inputs)")
    assert [c.detail for c in found.failed] == ["the time for all of its checks is up"]
    assert found.checks[0].outcome == "passed" and found.checks[-1].outcome == "not_run"


def test_the_lock_of_a_build_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    write_solution(tmp_path / "solutions", "quick", SLOW.format("moe(*inputs)"))
    paths = Paths(
        solutions=tmp_path / "solutions", results=tmp_path / "results", build=tmp_path / "build"
    )
    plan = make_plan(Request(["quick"], backend="cpu", run="r"), paths)
    lock = paths.kernel_cache / "torch" / "quick" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    judge.Judge(plan, "short", 5, print, only=frozenset({"contract"})).verify(plan.variants[0])
    assert not lock.exists()


def test_compilers_are_waited_for_where_they_would_be_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what goes by a clock, and before one that is compiled is loaded; not before. The time is not the solution's."""
    write_solution(tmp_path / "solutions", "quick", SLOW.format("moe(*inputs)"))
    paths = Paths(solutions=tmp_path / "solutions", results=tmp_path / "results")
    plan = make_plan(Request(["quick"], backend="cpu", run="r"), paths)
    seen: list[str] = []
    left: list[float] = []

    def look(name: str, alone: bool = False) -> Check:
        def run(exam: Exam) -> str:
            seen.append(name)
            left.append(exam.session._deadline - time.monotonic())
            return ""

        return Check(name, run, in_short=True, alone=alone)

    def compiled() -> None:
        seen.append("waited")
        time.sleep(1)

    monkeypatch.setattr(judge, "CHECKS", (look("values"), look("clock", alone=True)))
    found = judge.Judge(plan, "short", 5, print, compiled=compiled)
    found.verify(plan.variants[0])
    assert seen == ["values", "waited", "clock"] and left[1] > left[0] - 0.5
    start = time.monotonic()
    seen.clear()
    monkeypatch.setattr(type(plan.variants[0]), "is_compiled_once", True)
    seconds = found.verify(plan.variants[0]).seconds
    assert seen == ["waited", "values", "waited", "clock"]
    assert seconds < time.monotonic() - start - 1.9, "it has waited twice for a second"
