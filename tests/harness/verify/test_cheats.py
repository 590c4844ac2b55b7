"""Every dishonest or broken solution under tests/cheats is caught by the check it names, and no honest one by any.

`make cheats ROUNDS=20` repeats it all with other seeds.
"""

import pytest

from harness.manifest import Variant
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan, unmet
from harness.verify.checks import CHECKS
from tests.cheats.suite import CHEATS, VARIANTS, caught_by, each, each_round, judge
from tests.cheats.suite import judge_by_its_check as by_its_check

HERE = [v for v in VARIANTS if unmet(v, None) is None]
NAMED = [
    "noop_after_n",
    "cache_by_pointer",
    "cache_by_shape",
    "cache_by_content",
    "partial_write",
    "zero_inputs",
    "returns_alias",
    "lazy_subclass",
    "side_stream",
    "patched_checker",
    "patched_timer",
    "thread",
    "stale_workspace",
    "weights_cached",
    "nondeterministic",
    "impossible_time",
    "wrong_offset",
    "drops_tie",
]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    results = tmp_path_factory.mktemp("results")
    request = Request(["all"], backend="cpu", run="cheats", workloads=["one-token", "few-pairs"])
    return make_plan(request, Paths(solutions=CHEATS, results=results))


@each_round
@each([v for v in HERE if caught_by(v)])
def test_cheat_is_caught_by_its_check(plan: Plan, variant: Variant, round_: int) -> None:
    by_its_check(plan, variant)


@each_round
@each([v for v in HERE if not caught_by(v)])
def test_honest_solution_is_not_flagged(plan: Plan, variant: Variant, round_: int) -> None:
    found = judge(plan, variant)
    assert not found.failed, found.failed
    assert sum(c.outcome == "passed" for c in found.checks) >= 20
    assert all(a.matched_seed > 0.999 for a in found.accuracy) and len(found.accuracy) == 2


def test_timing_loop_has_work_whatever_the_seed(plan: Plan) -> None:
    """With seed 27 five tokens of random routing have no local expert at all, so an output of zeros would be right."""
    [cheat] = [v for v in HERE if v.name == "loop_only"]
    found = judge(plan, cheat, frozenset(["timing_loop"]), seed=27)
    assert [c.name for c in found.failed] == ["timing_loop"], found


def test_controls_and_gpu_cheats_are_there() -> None:
    """Discovery finds both kinds, so that an empty folder cannot pass for success."""
    assert set(NAMED) <= {v.name for v in VARIANTS if caught_by(v)}
    assert len(HERE) >= 30 and sum(caught_by(v) is None for v in HERE) >= 4
    gpu = [v for v in VARIANTS if unmet(v, None) is not None]
    assert {caught_by(v) for v in gpu} >= {"current_stream", "two_streams", "latency_floor"}


def test_every_check_has_a_cheat_that_it_alone_must_catch() -> None:
    assert {check.name for check in CHECKS} == {caught_by(v) for v in VARIANTS} - {None}
