"""Cheats that only a GPU shows are caught by the checks they name, and honest solutions are not flagged there either.

`make cheats ROUNDS=20` repeats it; workers of pytest-xdist (`-n`) take a GPU each.
"""

import os
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness.bench import measure_ceilings
from harness.definition import FULL, SMALL
from harness.environment import visible_gpus
from harness.manifest import Variant
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan
from harness.record import Ceilings
from harness.verify.judge import Judge
from tests.cheats.suite import CHEATS, VARIANTS, caught_by, each, each_round
from tests.cheats.suite import judge_by_its_check as by_its_check

# Asked of the driver: torch would settle which GPUs this process sees before the judge has chosen one.
GPUS = visible_gpus()
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPUS, reason="needs a GPU"),
    # Two judges on one GPU would see each other's memory and time.
    pytest.mark.skipif(len(GPUS) < WORKERS, reason="more workers than GPUs"),
]


@cache  # the folder of a run that has begun is taken
def plan_for(root: Path, definition: str) -> Plan:
    request = Request(["all"], backend="gpu", gpu=WORKER, run=definition, definition=definition)
    return make_plan(request, Paths(solutions=CHEATS, results=root))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cheats")


@pytest.fixture(scope="module")
def ceilings(root: Path) -> Ceilings:
    found, warning = measure_ceilings(plan_for(root / "ceilings", FULL))
    assert found is not None, warning
    return found


@each_round
@each([v for v in VARIANTS if v.manifest.requires.gpu])
def test_cheat_is_caught_by_its_check(
    root: Path, ceilings: Ceilings, variant: Variant, round_: int
) -> None:
    # Floors mean something in full size only; the rest is quicker on the small sibling.
    definition = FULL if caught_by(variant) == "latency_floor" else SMALL
    by_its_check(plan_for(root / str(round_), definition), variant, ceilings)


@pytest.fixture(scope="module")
def full_judge(root: Path, ceilings: Ceilings, round_: int) -> Iterator[Judge]:
    """Full form, on inputs that no other round saw; one for all of a round, as in a run, so that references are computed once."""
    plan = plan_for(root / str(round_), SMALL)
    made = Judge(plan, "full", secrets.randbits(48), print, ceilings=ceilings)
    yield made
    made.close()


@each_round
@each([v for v in VARIANTS if caught_by(v) is None])
def test_honest_solution_is_not_flagged(full_judge: Judge, variant: Variant, round_: int) -> None:
    found = full_judge.verify(variant)
    assert not found.failed, found.failed
    assert sum(c.outcome == "passed" for c in found.checks) >= 27
