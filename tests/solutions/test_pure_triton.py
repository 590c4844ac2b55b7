"""triton_v4, triton_v5 and triton_v6 against the reference under Triton's interpreter, at the small sibling's sizes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from tests import moe_cases

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="this is the interpreter's test"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
each_entry = pytest.mark.parametrize(
    ("variant", "entry"),
    [(v, e) for v, names in moe_cases.TILE_ENTRIES.items() for e in names],
    indirect=["variant"],
)
Run = Callable[..., None]


@pytest.fixture(params=moe_cases.TILE_ENTRIES)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(variant: str) -> Run:
    """The entry point of a fresh import, with a workspace of its own."""
    return moe_cases.load_variant(variant)


def buffer(run: Run, name: str, dtype: torch.dtype) -> torch.Tensor:
    """What the calls so far, all on the CPU, left in one of their buffers."""
    (workspace,) = moe_cases.module(run, "main")._WORKSPACES._workspaces.values()
    return workspace.buffers[name].view(dtype)


def run_and_check(
    run: Run, inputs: moe_cases.Inputs, what: str, entry: str | None = None
) -> torch.Tensor:
    """Run with the tiles of the table, or with those of one entry of it, and compare."""
    output = moe_cases.poisoned_output(inputs)
    if entry is None:
        run(*inputs.args(), output)
    else:
        tiles = {t.name: t for t in moe_cases.module(run, "tiles").TABLE}[entry]
        *tensors, offset, factor = inputs.args()
        call = (*tensors, output), offset, factor
        moe_cases.module(run, "main")._call(*call, stream=0, key=None, tiles=tiles)
    moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, what)
    return output


@pytest.mark.parametrize(("tokens", "offset"), [(1, 0), (2, 77), (7, 32), (57, 224)])
def test_random_routing(run: Run, tokens: int, offset: int) -> None:
    run_and_check(run, moe_cases.make_inputs(tokens, offset, seed=tokens), "random")


def test_random_routing_of_a_larger_batch(run: Run) -> None:
    run_and_check(run, moe_cases.make_inputs(130, 201, **moe_cases.TINY), "random")


@pytest.mark.parametrize(("routing", "offset"), moe_cases.SHAPED)
def test_shaped_routing(run: Run, routing: str, offset: int) -> None:
    run_and_check(run, moe_cases.make_inputs(4, offset, routing, **moe_cases.TINY), routing)


@each_entry
@pytest.mark.parametrize(("tokens", "routing"), [(130, "one_expert"), (3, "half_local")])
def test_every_table_entry(run: Run, entry: str, tokens: int, routing: str) -> None:
    """One expert with 130 rows has several row blocks in every entry, the last of them partly empty."""
    size = moe_cases.TINY if tokens == 130 else {}
    inputs = moe_cases.make_inputs(tokens, 77, routing, **size)
    run_and_check(run, inputs, f"{entry} {routing}", entry)


def test_changing_calls_on_one_module(run: Run) -> None:
    """T, offset, routing and table entry change from call to call, on buffers with the last call's rows."""
    calls = [
        (7, 0, "all_local", None),
        (1, 32, "no_local", None),
        (12, 77, "random", "most"),
        (12, 224, "one_expert", "few"),
        (2, 0, "half_local", "many"),
        (17, 0, "no_local", "some"),
        (7, 32, "random", None),
    ]
    for seed, (tokens, offset, routing, entry) in enumerate(calls):
        inputs = moe_cases.make_inputs(tokens, offset, routing, seed=seed, **moe_cases.TINY)
        run_and_check(run, inputs, f"call {seed}, {routing}", entry)


@each_entry
def test_bits_do_not_depend_on_the_order_of_rows(run: Run, entry: str) -> None:
    """On a GPU tokens enter an expert's row list in any order; here reversing the batch reverses it."""
    inputs = moe_cases.make_inputs(40, 32, "one_expert", **moe_cases.TINY)
    mirrored = replace(
        inputs,
        routing_logits=inputs.routing_logits.flip(0).contiguous(),
        hidden_states=inputs.hidden_states.view(torch.uint8)
        .flip(0)
        .contiguous()
        .view(inputs.hidden_states.dtype),
        hidden_states_scale=inputs.hidden_states_scale.flip(1).contiguous(),
    )
    forward = run_and_check(run, inputs, entry, entry)
    backward = run_and_check(run, mirrored, f"{entry}, mirrored", entry)
    assert torch.equal(forward, backward.flip(0))


def test_ties_take_eight_different_experts(run: Run) -> None:
    """Equal scores everywhere: any choice of eight is right, but it must be eight and count once each."""
    inputs = moe_cases.make_inputs(3, 0)
    logits = torch.zeros_like(inputs.routing_logits)
    logits[:, 64:] = -3.0  # the four kept groups hold all local ones; those tie
    inputs = replace(
        inputs, routing_logits=logits, routing_bias=torch.zeros_like(inputs.routing_bias)
    )
    output = moe_cases.poisoned_output(inputs)
    run(*inputs.args(), output)
    chosen = buffer(run, "expert", torch.int32)[: 3 * 8].view(3, 8)
    weights = buffer(run, "weight", torch.float32)[: 3 * 8].view(3, 8)
    assert chosen.tolist() == [list(range(8))] * 3
    torch.testing.assert_close(weights, torch.full((3, 8), moe_cases.SCALING / 8))


def test_strided_inputs_and_tensor_scalars(run: Run) -> None:
    """The scale arrives transposed and the output as a slice; scalars arrive as tensors."""
    inputs = moe_cases.make_inputs(4, 32, "half_local")  # T = H / 128: the scales are square
    strided = replace(
        inputs,
        hidden_states_scale=inputs.hidden_states_scale.t().contiguous().t(),
        local_expert_offset=torch.tensor(32),
        routed_scaling_factor=torch.tensor(moe_cases.SCALING),
    )
    wide = torch.full((4, 1024), float("nan"), dtype=torch.bfloat16)
    run(*strided.args(), wide[:, :512])
    moe_cases.check(wide[:, :512], moe_cases.reference().run(*inputs.args()), inputs, "strided")
    assert wide[:, 512:].isnan().all(), "wrote beyond the slice"


def test_inputs_are_left_alone(run: Run) -> None:
    inputs = moe_cases.make_inputs(3, 32, **moe_cases.TINY)
    before = inputs.clone()
    run_and_check(run, inputs, "inputs")
    for name, tensor in inputs.__dict__.items():
        if isinstance(tensor, torch.Tensor):
            old = getattr(before, name)
            assert torch.equal(tensor.view(torch.uint8), old.view(torch.uint8)), name


def test_call_after_a_failed_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that dies after routing leaves counts behind; the next one must not add to them."""
    inputs = moe_cases.make_inputs(3, 32, "all_local", **moe_cases.TINY)
    with monkeypatch.context() as broken:
        broken.setattr(moe_cases.module(run, "launch"), "gemm2_kernel", None)
        with pytest.raises(TypeError):
            run(*inputs.args(), moe_cases.poisoned_output(inputs))
    run_and_check(run, inputs, "after a failure")


def test_no_tokens(run: Run) -> None:
    inputs = moe_cases.make_inputs(1, 0)
    none = replace(
        inputs,
        routing_logits=inputs.routing_logits[:0],
        hidden_states=inputs.hidden_states[:0],
        hidden_states_scale=inputs.hidden_states_scale[:, :0],
    )
    run(*none.args(), torch.empty(0, 512, dtype=torch.bfloat16))


def test_table_is_sorted_and_complete(run: Run, variant: str) -> None:
    tiles = moe_cases.module(run, "tiles")
    assert tuple(entry.name for entry in tiles.TABLE) == moe_cases.TILE_ENTRIES[variant]
    assert all(a.max_tokens < b.max_tokens for a, b in pairwise(tiles.TABLE))
    for entry in tiles.TABLE[:-1]:
        assert tiles.tiles_for(entry.max_tokens) is entry
        assert tiles.tiles_for(entry.max_tokens + 1) is not entry
    assert tiles.tiles_for(1_000_000).name == "most"


def test_row_blocks_bounds_every_routing(run: Run) -> None:
    """The worst routing gives every expert one row more than full blocks."""
    row_blocks = moe_cases.module(run, "launch").row_blocks
    for tokens in (1, 3, 16, 57, 1000):
        for block in (16, 64, 128):
            left, worst = tokens * 8, 0
            for _ in range(32):
                rows = min(left, tokens, (tokens - 1) // block * block + 1)
                left, worst = left - rows, worst + -(-rows // block)
            assert row_blocks(tokens, 32, block) >= worst, (tokens, block)


def test_manifest_lists_every_source(variant: str) -> None:
    folder: Path = moe_cases.ROOT / "solutions" / variant
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    files = {p.name for p in folder.glob("*.py")} - {"tune.py"}
    assert sorted(manifest["sources"]) == sorted(files)
