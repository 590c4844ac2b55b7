"""What one solution may cost: a slow one is given up, and one that has failed is not examined for long."""

from pathlib import Path

import pytest

from harness.paths import Paths
from harness.plan import Plan, Request, make_plan
from harness.record import Verification
from harness.verify import judge
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
