"""Verification on a GPU: all real solutions pass in full size, and what a solution does to the GPU ends with it."""

import re
from pathlib import Path

import pytest

from harness.bench import measure_ceilings
from harness.definition import FULL
from harness.environment import visible_gpus
from harness.manifest import Variant
from harness.paths import Paths
from harness.plan import Plan, Request, make_plan, unmet
from harness.record import Ceilings, load_record
from tests import moe_cases
from tests.cheats.suite import judge
from tests.harness.folders import discover, harness, write_solution

GPUS = visible_gpus()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="needs a GPU")]

PRELUDE = "import torch\nfrom tests.cheats.honest import moe\nKEPT = []\n"
FAULTS = {
    "hoards": "KEPT.append(torch.empty(torch.cuda.mem_get_info()[0] - (64 << 20), dtype=torch.int8, device='cuda'))",
    "loses_context": "torch.zeros(4, device='cuda')[torch.tensor([1 << 30], device='cuda')]",
    "spins": "torch.cuda._sleep(1 << 62)",
}
WORDS = {
    "hoards": "(memory|ALLOC)",  # torch's words or those of a library that found none
    "loses_context": "the GPU takes no more calls",
    "spins": "no answer within 30 s",
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    request = Request(["all"], backend="gpu", run="verify", definition=FULL)
    return make_plan(request, Paths(results=tmp_path_factory.mktemp("verify")))


@pytest.fixture(scope="module")
def ceilings(plan: Plan) -> Ceilings:
    found, warning = measure_ceilings(plan)
    assert found is not None, warning
    return found


@pytest.mark.parametrize("variant", discover(moe_cases.ROOT / "solutions"), ids=lambda v: v.name)
def test_real_solution_passes(plan: Plan, ceilings: Ceilings, variant: Variant) -> None:
    if reason := unmet(variant, GPUS[0]):
        pytest.skip(reason)
    found = judge(plan, variant, ceilings=ceilings)
    assert not found.failed, found.failed
    assert sum(c.outcome == "passed" for c in found.checks) >= 27 and len(found.accuracy) == 19


def test_faults_on_the_gpu_cost_their_solution_alone(tmp_path: Path) -> None:
    """A solution that takes all memory, one that loses its context and one that never ends; the one after them passes."""
    for name, line in FAULTS.items():
        code = f"{PRELUDE}\ndef run(*inputs):\n    {line}\n    return moe(*inputs)\n"
        write_solution(tmp_path / "solutions", name, code)
    write_solution(tmp_path / "solutions", "good")
    configs = tmp_path / "configs"
    configs.mkdir()
    profile = (moe_cases.ROOT / "configs" / "quick.yaml").read_text()
    (configs / "short.yaml").write_text(profile.replace("timeout: 120", "timeout: 30"))
    done = harness(
        *("verify", *FAULTS, "good", "--backend", "gpu", "--run", "r", "--profile", "short"),
        *("--checks", "fresh_inputs", "--solutions-dir", tmp_path / "solutions"),
        *("--results-dir", tmp_path / "results", "--configs-dir", configs),
        timeout=900,
    )
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    info = load_record(tmp_path / "results" / "r").verification
    assert info is not None
    for name, words in WORDS.items():
        verdict = info.of(f"{name}_full_name")
        assert verdict is not None and re.search(words, verdict.failed[0].detail), verdict
        assert verdict.seconds < 120  # its limit of 30 s, starting and ending it
    good = info.of("good_full_name")
    assert good is not None and not good.failed, good
