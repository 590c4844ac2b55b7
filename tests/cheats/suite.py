"""The folders beside this file, and what is expected of each: for the tests with and without a GPU."""

import os
import secrets
from pathlib import Path

import pytest
import yaml

from harness.manifest import Variant
from harness.plan import Plan
from harness.record import Ceilings, Verification
from harness.verify.judge import Judge
from tests.harness.folders import discover

CHEATS = Path(__file__).parent
VARIANTS = discover(CHEATS)
ROUNDS = int(os.environ.get("CHEAT_ROUNDS", "1"))
"""How often each is judged, every time on other inputs; `make cheats ROUNDS=20` sets it."""

each_round = pytest.mark.parametrize("round_", range(1, ROUNDS + 1), scope="module")


def each(variants: list[Variant]) -> pytest.MarkDecorator:
    """A test for each of `variants`."""
    return pytest.mark.parametrize("variant", variants, ids=lambda v: v.name)


def caught_by(variant: Variant) -> str | None:
    """Name of the check that must catch it; None: honest, so that none may."""
    return _expectation(variant)["caught_by"]


def judge_by_its_check(plan: Plan, variant: Variant, ceilings: Ceilings | None = None) -> None:
    """Have a cheat judged by the check that it names, after those it asks for first, and fail unless that one catches it."""
    check = caught_by(variant)
    assert check is not None
    only = frozenset([check, *_expectation(variant).get("run_first", [])])
    found = judge(plan, variant, only, ceilings)
    assert [c.name for c in found.failed] == [check], found


def judge(
    plan: Plan,
    variant: Variant,
    only: frozenset[str] = frozenset(),
    ceilings: Ceilings | None = None,
    seed: int | None = None,
) -> Verification:
    """The full form, or some of its checks, on inputs that no earlier call saw unless `seed` is given."""
    seed = secrets.randbits(48) if seed is None else seed
    made = Judge(plan, "full", seed, print, only=only, ceilings=ceilings)
    try:
        return made.verify(variant)
    finally:
        made.close()


def _expectation(variant: Variant) -> dict[str, str | list[str] | None]:
    """expect.yaml: `caught_by` and, where the check alone does not provoke it, checks to `run_first`."""
    return yaml.safe_load((variant.folder / "expect.yaml").read_text())
