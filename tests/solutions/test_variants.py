"""Variants around sgl_kernel, and those that need nothing else, against the reference, on the CPU.

sgl_kernel is emulated and Triton interpreted; the sizes are the small sibling's.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests import moe_cases

# On a GPU machine Triton is compiled, and tests/gpu covers the variants there.
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("emulated_sgl_kernel", "poisoned_empty"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty gives NaN and huge indices, so that nothing can rely on what it finds there."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: moe_cases.poison(empty(*a, **k)))


@pytest.fixture(params=moe_cases.VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(variant: str) -> Callable[..., None]:
    """The variant's entry point, its module freshly imported."""
    return moe_cases.load_variant(variant)


def run_and_check(run: Callable[..., None], inputs: moe_cases.Inputs, what: str) -> torch.Tensor:
    output = moe_cases.poisoned_output(inputs)
    run(*inputs.args(), output)
    moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, what)
    return output


@pytest.mark.parametrize(("tokens", "offset"), [(1, 0), (7, 77), (57, 224), (130, 32)])
def test_random_routing(run: Callable[..., None], variant: str, tokens: int, offset: int) -> None:
    """130 tokens are for what depends on their number, which smaller sizes show as well."""
    size = {"hidden": 512, "inter": 128} if tokens == 130 else {}
    run_and_check(run, moe_cases.make_inputs(tokens, offset, seed=tokens, **size), variant)


@pytest.mark.parametrize(("routing", "offset"), moe_cases.SHAPED)
def test_shaped_routing(run: Callable[..., None], variant: str, routing: str, offset: int) -> None:
    run_and_check(run, moe_cases.make_inputs(6, offset, routing), f"{variant} {routing}")


def test_routings_have_the_shape_they_are_called_by() -> None:
    for offset in (0, 32, 77, 224):
        for routing, pairs in (("no_local", 0), ("one_expert", 1), ("all_local", 8)):
            inputs = moe_cases.make_inputs(9, offset, routing)
            ids, _ = moe_cases.reference().route(
                inputs.routing_logits, inputs.routing_bias, inputs.routed_scaling_factor
            )
            local = ids[(ids >= offset) & (ids < offset + moe_cases.NUM_LOCAL)]
            assert len(local) == 9 * pairs, (offset, routing)
            assert routing != "one_expert" or len(local.unique()) == 1, offset


def test_changing_calls_on_one_module(
    run: Callable[..., None], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T, offset and routing change from call to call, on buffers that hold the last call's rows."""
    workspace = sys.modules.get(run.__module__.replace(".main", ".workspace"))
    if hasattr(workspace, "TOKEN_STEP"):
        monkeypatch.setattr(workspace, "TOKEN_STEP", 8)  # so that a few tokens make it grow
    calls = [(7, 0, "all_local"), (1, 32, "no_local"), (12, 77, "random"), (12, 224, "one_expert")]
    calls += [(2, 0, "half_local"), (17, 0, "no_local"), (7, 32, "random")]
    for seed, (tokens, offset, routing) in enumerate(calls):
        inputs = moe_cases.make_inputs(tokens, offset, routing, seed=seed)
        run_and_check(run, inputs, f"{variant} {routing}, call {seed}")


def test_repeated_call_gives_the_same_bits(run: Callable[..., None], variant: str) -> None:
    inputs = moe_cases.make_inputs(7, 32, "half_local")
    first = run_and_check(run, inputs, variant)
    assert torch.equal(first, run_and_check(run, inputs, variant))


def test_inputs_are_left_alone(run: Callable[..., None], variant: str) -> None:
    inputs = moe_cases.make_inputs(7, 32)
    before = inputs.clone()
    run_and_check(run, inputs, variant)
    for name, tensor in inputs.__dict__.items():
        if isinstance(tensor, torch.Tensor):
            old = getattr(before, name)
            assert torch.equal(tensor.view(torch.uint8), old.view(torch.uint8)), name


@pytest.mark.parametrize("variant", ["triton_v3"])
def test_counted_rows_of_the_fused_activation(run: Callable[..., None], variant: str) -> None:
    """I = 2048 takes the form of sgl_kernel's fused quantisation that counts rows on the device."""
    for seed, (tokens, routing) in enumerate([(9, "all_local"), (2, "half_local")]):
        inputs = moe_cases.make_inputs(tokens, 77, routing, hidden=256, inter=2048, seed=seed)
        run_and_check(run, inputs, f"{variant} {routing}")


@pytest.mark.parametrize("variant", ["triton_v2", "triton_v3"])
def test_call_after_a_failed_one(
    run: Callable[..., None], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that dies after routing leaves counts behind; the next one must not add to them."""
    inputs = moe_cases.make_inputs(7, 32, "all_local")
    main = sys.modules[run.__module__]
    with monkeypatch.context() as broken:
        broken.setattr(main.launch, "dispatch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*inputs.args(), moe_cases.poisoned_output(inputs))
    run_and_check(run, inputs, f"{variant} after a failure")


def test_manifest_lists_every_source(variant: str) -> None:
    folder: Path = moe_cases.ROOT / "solutions" / variant
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert sorted(manifest["sources"]) == sorted(p.name for p in folder.glob("*.py"))
    assert "label" not in manifest  # so that a copy of the folder needs another name only
