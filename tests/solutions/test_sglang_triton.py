"""sglang_triton's tiles: large ones on small batches, and the lookup by number of tokens."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from tests import moe_cases

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]


@pytest.fixture
def run() -> Callable[..., None]:
    return moe_cases.load_variant("sglang_triton")


@pytest.fixture
def tiles(run: Callable[..., None]) -> ModuleType:
    return sys.modules[run.__module__.replace(".main", ".tiles")]


@pytest.mark.parametrize(("block_m", "block_n"), [(16, 32), (16, 64), (64, 128), (128, 64)])
@pytest.mark.parametrize(("tokens", "routing"), [(5, "all_local"), (150, "one_expert")])
def test_every_kind_of_tile(
    run: Callable[..., None],
    tiles: ModuleType,
    block_m: int,
    block_n: int,
    tokens: int,
    routing: str,
) -> None:
    """Operands swapped and not, blocks with one pair and an expert with several blocks."""
    tile = tiles.Tile(block_m, group_m=2, stages=3, block_n=block_n)
    assert tile.swap_ab == ((block_m, block_n) == (16, 64))
    inputs = moe_cases.make_inputs(tokens, 77, routing, hidden=256, inter=128)
    output = moe_cases.poisoned_output(inputs)
    moe_cases.module(run, "main").run_with(*inputs.args(), output, tile=tile)
    moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, f"{tile} {routing}")


def test_tile_of_the_nearest_number_of_tokens(tiles: ModuleType) -> None:
    nearest = {1: 1, 3: 2, 7: 8, 57: 64, 901: 1024, 700: 512, 14107: 4096}
    for tokens, entry in nearest.items():
        assert tiles.tile_for(tokens) is tiles.TABLE[entry], tokens
