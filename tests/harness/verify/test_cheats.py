"""Every dishonest or broken solution under tests/cheats is caught by the check it names, and no honest one by any.

`CHEAT_ROUNDS=20` repeats it all with other seeds.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.manifest import Variant, discover
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan, unmet
from harness.record import Verification
from harness.verify.judge import Judge

CHEATS = Path(__file__).parents[2] / "cheats"
ROUNDS = int(os.environ.get("CHEAT_ROUNDS", "1"))
HERE = [v for v in discover(CHEATS) if unmet(v, None) is None]


def expectation(variant: Variant) -> dict[str, Any]:
    """expect.yaml: `caught_by`, the check that must catch it (null: honest), and checks to `run_first`."""
    return yaml.safe_load((variant.folder / "expect.yaml").read_text())


def caught_by(variant: Variant) -> str | None:
    return expectation(variant)["caught_by"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    results = tmp_path_factory.mktemp("results")
    request = Request(["all"], backend="cpu", run="cheats", workloads=["one-token", "few-pairs"])
    return make_plan(request, Paths(solutions=CHEATS, results=results))


def verdict(plan: Plan, variant: Variant, only: frozenset[str]) -> Verification:
    return Judge(plan, "full", secrets.randbits(48), print, only=only).verify(variant)


@pytest.mark.parametrize("variant", [v for v in HERE if caught_by(v)], ids=lambda v: v.name)
def test_cheat_is_caught_by_its_check(plan: Plan, variant: Variant) -> None:
    check = caught_by(variant)
    only = frozenset([check, *expectation(variant).get("run_first", [])])
    for _ in range(ROUNDS):
        found = verdict(plan, variant, only)
        assert [c.name for c in found.failed] == [check], found


@pytest.mark.parametrize("variant", [v for v in HERE if not caught_by(v)], ids=lambda v: v.name)
def test_honest_solution_is_not_flagged(plan: Plan, variant: Variant) -> None:
    for _ in range(ROUNDS):
        found = verdict(plan, variant, frozenset())
        assert not found.failed, found.failed
        assert sum(c.outcome == "passed" for c in found.checks) >= 20
        assert all(a.matched_seed > 0.999 for a in found.accuracy) and len(found.accuracy) == 2


def test_controls_and_gpu_cheats_are_there() -> None:
    """Discovery finds both kinds, so that an empty folder cannot pass for success."""
    assert len(HERE) >= 25 and sum(caught_by(v) is None for v in HERE) >= 3
    gpu = [v for v in discover(CHEATS) if unmet(v, None) is not None]
    assert {caught_by(v) for v in gpu} >= {"current_stream", "two_streams", "latency_floor"}
