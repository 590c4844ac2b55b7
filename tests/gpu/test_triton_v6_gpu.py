"""triton_v6's launches through the CUDA driver, at full size: that they are taken, and what they compute.

Run with `pytest -m gpu tests/gpu`. The rest of what it must do on a GPU is in test_variants_gpu.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.environment import visible_gpus
from harness.manifest import load_variant
from tests import moe_cases
from tests.gpu.test_variants_gpu import full_size, load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="needs a GPU"),
]
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With no plans yet."""
    return load(load_variant(moe_cases.ROOT / "solutions" / "triton_v6"), tmp_path)


@pytest.fixture
def before(tmp_path: Path) -> Run:
    return load(load_variant(moe_cases.ROOT / "solutions" / "triton_v5"), tmp_path)


@pytest.fixture
def launches(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that were launched, in order."""
    plan, launched = moe_cases.module(run, "launch").Plan, []
    launch = plan.launch

    def counted(self: Any, *args: Any) -> None:
        launched.append(self)
        launch(self, *args)

    monkeypatch.setattr(plan, "launch", counted)
    return launched


def make(tokens: int) -> moe_cases.Inputs:
    return full_size(tokens, 32, "half_local", seed=tokens)


def call(run: Run, inputs: moe_cases.Inputs) -> torch.Tensor:
    output = moe_cases.poisoned_output(inputs)
    run(*inputs.args(), output)
    torch.cuda.synchronize()
    return output


def plans_of(run: Run) -> dict[Any, Any]:
    """Of the only stream that was used."""
    (workspace,) = moe_cases.module(run, "main")._WORKSPACES._workspaces.values()
    return workspace.plans


def bits(output: torch.Tensor) -> torch.Tensor:
    """Of which a NaN is equal to itself."""
    return output.view(torch.int16)


@pytest.mark.parametrize("tokens", [1, 7, 57, 300, 901, 4096])
def test_the_driver_launches_from_the_second_call_on(
    run: Run, launches: list[Any], tokens: int
) -> None:
    """Other tensors too, as the benchmark's; and to the bit what Triton's launcher gives."""
    inputs = make(tokens)
    first = call(run, inputs)
    call(run, inputs)
    plan_type = moe_cases.module(run, "launch").Plan
    plans = plans_of(run)
    assert len(plans) == 1 and all(type(plan) is plan_type for plan in plans.values())
    (plan,) = plans.values()
    assert launches == [plan]

    planned = call(run, inputs.clone())
    assert launches == [plan] * 2 and list(plans_of(run).values()) == [plan]
    moe_cases.check(planned, moe_cases.reference().run(*inputs.args()), inputs, "planned")

    plans_of(run).clear()
    unplanned = call(run, inputs)
    assert launches == [plan] * 2, "went through a plan that was gone"
    assert bits(planned).equal(bits(first)) and bits(planned).equal(bits(unplanned))


@pytest.mark.parametrize("tokens", [1, 7, 57, 300])
def test_bits_are_those_of_triton_v5(
    run: Run, before: Run, launches: list[Any], tokens: int
) -> None:
    """As the manifest says: one rounding to bf16, one to f8, sums in the same order, slots in theirs."""
    inputs = make(tokens)
    wanted = call(before, inputs)
    call(run, inputs)
    got = call(run, inputs)
    assert len(launches) == 1
    differ = int((bits(got) != bits(wanted)).sum())
    assert differ == 0, f"T={tokens}: {differ} of {got.numel()} values differ"


def test_every_shape_and_choice_of_tiles_has_its_plan(run: Run, launches: list[Any]) -> None:
    """Largest first: a buffer that grows takes the plans with it."""
    tiles = {entry.name: entry for entry in moe_cases.module(run, "tiles").TABLE}["some"]
    run_with = moe_cases.module(run, "main").run_with
    sizes = [make(tokens) for tokens in (300, 57, 7)]
    for rounds in range(1, 4):
        for inputs in sizes:
            call(run, inputs)
            call(lambda *args: run_with(*args, tiles=tiles), inputs)
        assert len(launches) == (rounds - 1) * 2 * len(sizes)
    assert len(plans_of(run)) == 2 * len(sizes)
    assert len(set(launches)) == 2 * len(sizes)


def test_what_has_no_plan_leaves_the_others_alone(run: Run, launches: list[Any]) -> None:
    """Unaligned and strided tensors, and a capture, go through Triton's launcher."""
    inputs = make(7)
    expected = moe_cases.reference().run(*inputs.args())
    call(run, inputs)
    (plan,) = plans_of(run).values()
    *tensors, offset, factor = inputs.args()
    scale = tensors[3]
    unaligned = scale.new_empty(scale.numel() + 1)[1:].view(scale.shape).copy_(scale)
    for other in (unaligned, scale.t().contiguous().t()):
        output = moe_cases.poisoned_output(inputs)
        run(*tensors[:3], other, *tensors[4:], offset, factor, output)
        torch.cuda.synchronize()
        moe_cases.check(output, expected, inputs, "without a plan")
    output = moe_cases.poisoned_output(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(*inputs.args(), output)
    graph.replay()
    torch.cuda.synchronize()
    moe_cases.check(output, expected, inputs, "captured")
    assert launches == []
    moe_cases.check(call(run, inputs), expected, inputs, "with the plan")
    assert launches == [plan]
