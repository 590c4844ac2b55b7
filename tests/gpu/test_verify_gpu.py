"""Verification on a GPU: its own cheats are caught, honest solutions and all real ones pass, in full size where it matters.

`CHEAT_ROUNDS=20 make test-gpu` repeats the cheats and controls.
"""

import os
import secrets
from pathlib import Path

import pytest
import torch
import yaml

from harness.bench import measure_ceilings
from harness.definition import FULL, SMALL
from harness.environment import find_gpus
from harness.manifest import Variant, discover
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan, unmet
from harness.record import Ceilings, Verification
from harness.verify.judge import Judge
from tests import moe_cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CHEATS = moe_cases.ROOT / "tests" / "cheats"
ROUNDS = int(os.environ.get("CHEAT_ROUNDS", "1"))


def caught_by(variant: Variant) -> str | None:
    return yaml.safe_load((variant.folder / "expect.yaml").read_text())["caught_by"]


def plan_for(root: Path, solutions: Path, definition: str) -> Plan:
    request = Request(["all"], backend="gpu", run="verify", definition=definition)
    return make_plan(request, Paths(solutions=solutions, results=root / definition))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def ceilings(root: Path) -> Ceilings:
    found, warning = measure_ceilings(plan_for(root / "ceilings", CHEATS, FULL))
    assert found is not None, warning
    return found


def verdict(plan: Plan, variant: Variant, ceilings: Ceilings, only: frozenset[str]) -> Verification:
    judge = Judge(plan, "full", secrets.randbits(48), print, only=only, ceilings=ceilings)
    try:
        return judge.verify(variant)
    finally:
        judge.close()


@pytest.mark.parametrize(
    "variant", [v for v in discover(CHEATS) if v.manifest.requires.gpu], ids=lambda v: v.name
)
def test_cheat_is_caught_by_its_check(root: Path, ceilings: Ceilings, variant: Variant) -> None:
    check = caught_by(variant)
    # Floors mean something in full size only; the rest is quicker on the small sibling.
    plan = plan_for(root / "cheats", CHEATS, FULL if check == "latency_floor" else SMALL)
    for _ in range(ROUNDS):
        found = verdict(plan, variant, ceilings, frozenset([check]))
        assert [c.name for c in found.failed] == [check], found


@pytest.mark.parametrize(
    "variant", [v for v in discover(CHEATS) if caught_by(v) is None], ids=lambda v: v.name
)
def test_honest_solution_is_not_flagged(root: Path, ceilings: Ceilings, variant: Variant) -> None:
    plan = plan_for(root / "controls", CHEATS, SMALL)
    for _ in range(ROUNDS):
        found = verdict(plan, variant, ceilings, frozenset())
        assert not found.failed, found.failed


@pytest.mark.parametrize("variant", discover(moe_cases.ROOT / "solutions"), ids=lambda v: v.name)
def test_real_solution_passes(root: Path, ceilings: Ceilings, variant: Variant) -> None:
    if reason := unmet(variant, find_gpus()[0]):
        pytest.skip(reason)
    plan = plan_for(root / "real", moe_cases.ROOT / "solutions", FULL)
    found = verdict(plan, variant, ceilings, frozenset())
    assert not found.failed, found.failed
    assert sum(c.outcome == "passed" for c in found.checks) >= 25 and len(found.accuracy) == 19
