"""Every solution that can run here at full size on a GPU.

Run with `pytest -m gpu tests/gpu`; needs sgl_kernel and about 40 GB of GPU memory.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from harness.environment import build_variables, visible_gpus
from harness.manifest import Variant
from harness.plan import unmet
from tests import moe_cases
from tests.harness.folders import discover

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="needs a GPU"),
]
HIDDEN, INTER = 7168, 2048


@pytest.fixture(
    scope="module", params=discover(moe_cases.ROOT / "solutions"), ids=lambda v: v.folder.name
)
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Callable[..., None]]:
    """Name and entry point; one module for all tests, so that its state meets every T."""
    return request.param.label, load(request.param, tmp_path_factory.mktemp("kernels"))


def load(variant: Variant, cache: Path) -> Callable[..., None]:
    """The entry point, built for the first GPU; skips where it cannot run there."""
    gpu = visible_gpus()[0]
    if reason := unmet(variant, gpu):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in build_variables(gpu.info.compute_capability, cache).items():
            patch.setenv(name, value)
        return moe_cases.load_variant(variant.folder.name)


def full_size(tokens: int, offset: int, routing: str = "random", seed: int = 0) -> moe_cases.Inputs:
    return moe_cases.make_inputs(
        tokens, offset, routing, hidden=HIDDEN, inter=INTER, device="cuda", seed=seed
    )


def run_and_check(run: Callable[..., None], inputs: moe_cases.Inputs, what: str) -> torch.Tensor:
    expected = moe_cases.reference().run(*inputs.args())
    _poison_free_memory()
    output = moe_cases.poisoned_output(inputs)
    run(*inputs.args(), output)
    torch.cuda.synchronize()
    moe_cases.check(output, expected, inputs, what)
    return output


def _poison_free_memory() -> None:
    """Fill blocks that the caching allocator holds with NaN: what torch.empty finds is then NaN."""
    blocks = [torch.empty(1 << size, dtype=torch.uint8, device="cuda") for size in range(9, 31)]
    for block in blocks:
        block.fill_(0xFF)


# Up and down, so that stale rows and counts of larger calls lie around.
@pytest.mark.parametrize("tokens", [1, 901, 7, 4096, 16, 57, 129])
def test_random_routing(variant: tuple[str, Callable[..., None]], tokens: int) -> None:
    name, run = variant
    run_and_check(run, full_size(tokens, 32, seed=tokens), f"{name} random")


@pytest.mark.parametrize("tokens", [1, 57, 300, 1250])
@pytest.mark.parametrize("offset", [0, 77, 224])
@pytest.mark.parametrize("routing", ["no_local", "one_expert", "all_local", "half_local"])
def test_shaped_routing(
    variant: tuple[str, Callable[..., None]], routing: str, offset: int, tokens: int
) -> None:
    name, run = variant
    run_and_check(run, full_size(tokens, offset, routing), f"{name} {routing}")


# Tokens of the first local experts, around the sizes at which a kernel may take them for one group or several. On 132 multiprocessors
# hopper_v12 has groups of up to 128 up to T = 1,200 in those marked so.
@pytest.mark.parametrize("tokens", [600, 1200, 1300])
@pytest.mark.parametrize(
    "counts",
    [
        [64] * 8,
        [65] + [64] * 7,
        [128, 129, 1, 33, 32, 64, 65, 127],
        [128, 129, 1, 33, 32, 64, 65, 127, 100, 96, 81],  # up to 128
        [48, 49, 80, 81, 96, 16, 17, 8, 9, 255, 256, 257],  # up to 128
        [100] * 5,
        [100] * 6,  # up to 128
        [300] * 2 + [70] * 2,  # up to 128
        [600],
        [130] * 32,  # up to 128
    ],
    ids=lambda counts: f"{len(counts)}x{counts[0]}",
)
def test_tokens_per_expert(
    variant: tuple[str, Callable[..., None]], counts: list[int], tokens: int
) -> None:
    name, run = variant
    inputs = full_size(tokens, 32, seed=8)
    place_tokens(inputs, counts)
    run_and_check(run, inputs, f"{name} {counts}")


# Tokens of the first local experts of T. With few groups hopper_v13 multiplies a tile by both warpgroups, cuts all tiles of GEMM1 or those
# of the last groups, and sums the pieces. One expert of 1,200 tokens has ten groups, for whose sums there is no room. With up to six groups
# at T = 17 to 128 hopper_v14 has tiles of half the rows, whose tokens the warpgroups share: up to eight of a group are the first one's, up to
# 16 both's, up to 32 the first one's again.
FEW_EXPERTS: dict[str, Callable[[int], list[int]]] = {
    "one": lambda t: [t],
    "one and a half": lambda t: [t, t // 2],
    "one and two of 17": lambda t: [17] if t % 2 else [9, 17],
    "two and three of few": lambda t: [5, 7] if t % 2 else [5, 5, 5],
    "two": lambda t: [min(t, 30), min(t, 40)],
    "three": lambda t: [t // 2] * 3,
    "five": lambda t: [0, t // 3, t // 4, 0, t // 5, 40 if t > 40 else 1, t // 3],
    "four of every width": lambda t: [5, 13, t if t < 32 else 27, t if t < 64 else 60],
    "four of eight and less": lambda t: [8, 8, 16, 1],
    "six of few": lambda t: [11] * 6,
    "eight": lambda t: [t * 3 // 4] * 8,
    "seven and one twice as large": lambda t: [t // 2] * 7 + [t],
    "nine": lambda t: [t // 2] * 8 + [t],
    "ten, one of all": lambda t: [t] + [3] * 9,
    "eleven": lambda t: [t // 12] * 3 + [t // 24] * 4 + [t // 40, t // 2, 16, 17],
    "twelve of one": lambda t: [1] * 12,
}


@pytest.mark.parametrize("tokens", [17, 25, 100, 128, 129, 200, 1200])
@pytest.mark.parametrize("experts", FEW_EXPERTS)
def test_few_experts(variant: tuple[str, Callable[..., None]], experts: str, tokens: int) -> None:
    name, run = variant
    inputs = full_size(tokens, 32, seed=10)
    place_tokens(inputs, FEW_EXPERTS[experts](tokens))
    run_and_check(run, inputs, f"{name} {experts}")


def place_tokens(inputs: moe_cases.Inputs, counts: list[int]) -> None:
    """Route `counts[e]` tokens to local expert e, neighbours as far as possible; all else goes to two groups without local ones."""
    logits, bias = inputs.routing_logits, inputs.routing_bias
    first, tokens = inputs.local_expert_offset, len(logits)
    assert first == 32 and max(counts) <= tokens and sum(counts) <= 8 * tokens
    bias.zero_()
    logits.normal_(-10.0, 0.1)
    at = torch.arange(tokens, device=logits.device)
    chosen = torch.zeros(tokens, dtype=torch.int64, device=logits.device)
    start = 0
    for expert, count in enumerate(counts):
        mine = (at - start) % tokens < count
        logits[mine, first + expert] += 15.0
        chosen += mine
        start += count
    fill = torch.arange(8, device=logits.device)[None] < (8 - chosen)[:, None]
    logits[:, 128:132] += 15.0 * fill[:, :4]  # experts of the fifth group
    logits[:, 160:164] += 15.0 * fill[:, 4:]  # and of the sixth
    ids, _ = moe_cases.reference().route(logits, bias, inputs.routed_scaling_factor)
    local = torch.bincount(ids.flatten(), minlength=moe_cases.NUM_EXPERTS)[
        first : first + moe_cases.NUM_LOCAL
    ]
    assert local.tolist() == counts + [0] * (moe_cases.NUM_LOCAL - len(counts))


@pytest.mark.parametrize("tokens", [16, 25, 128, 129, 1200, 1201, 5000])
def test_few_steps_a_tile(variant: tuple[str, Callable[..., None]], tokens: int) -> None:
    """Products so short that a kernel's loaders are done long before its sums: who clears a counter, and when, is tight here."""
    name, run = variant
    inputs = moe_cases.make_inputs(
        tokens, 32, "half_local", hidden=512, inter=256, device="cuda", seed=tokens
    )
    run_often(run, inputs, name)


# Sizes and tokens per expert for which, on 132 multiprocessors, hopper_v13 (the first seven) and hopper_v14 (the next five, which follow its
# table of tilings) have groups of up to 128, whole and cut, and groups of up to 64 whose last ones are cut, with routing before and inside;
# and hopper_v14 tiles of half the rows: cut, whole, cut where the groups of one expert lie on both sides, and GEMM2 in two pieces. hopper_v15
# decides between groups of up to 64 and of up to 128 at T > 128 with eight of its groups a round: more than that of few tokens, of many, with
# one expert's groups on both sides of the round, exactly a round and less. Last the smallest hidden size and a round of one group.
@pytest.mark.parametrize(
    ("tokens", "hidden", "inter", "counts"),
    [
        (1200, 512, 256, [200] * 24 + [0, 128, 129, 33, 65, 127, 300, 1]),
        (1200, 768, 256, [200] * 24 + [0, 128, 129, 33, 65, 127, 300, 1]),
        (1200, 512, 256, [300] * 22 + [100, 128, 33, 17]),
        (1200, 1024, 256, [300] * 22 + [100, 128, 33, 65]),
        (300, 512, 1024, [40] * 17 + [64]),
        (128, 512, 1024, [40] * 17 + [64]),
        (128, 512, 1024, [3] * 18),
        (300, 512, 1280, [40] * 6 + [100] * 8),
        (300, 512, 1280, [100] * 8 + [40] * 6),
        (300, 512, 1280, [40] * 14),
        (128, 512, 1280, [40] * 13 + [64]),
        (128, 512, 1280, [3] * 14),
        (128, 512, 1024, [40] * 8 + [64]),
        (100, 512, 1024, [5, 13, 27, 60, 100]),
        (100, 1024, 1024, [30] * 7 + [100]),
        (40, 1024, 256, [33, 9]),
        (40, 512, 256, [9] * 12),
        *[(60, 1024, 512, [count]) for count in (1, 8, 9, 16, 17, 32, 33, 60)],
        (256, 512, 2048, [9, 16, 6, 87, 39, 69, 3, 2, 2]),
        (500, 512, 2048, [48, 21, 36, 62, 126, 147, 22, 75]),
        (300, 1024, 2048, [33] * 10 + [100]),
        (500, 1024, 2048, [237, 275, 52, 258, 32]),
        (150, 512, 2048, [115, 5, 140, 76]),
        (300, 512, 2048, [34, 146, 113]),
        (40, 256, 256, [24, 9]),
        (40, 256, 17152, [40, 9]),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)}x{value[0]}",
)
def test_few_steps_a_tile_by_tokens_per_expert(
    variant: tuple[str, Callable[..., None]],
    tokens: int,
    hidden: int,
    inter: int,
    counts: list[int],
) -> None:
    name, run = variant
    inputs = moe_cases.make_inputs(tokens, 32, hidden=hidden, inter=inter, device="cuda", seed=9)
    place_tokens(inputs, counts)
    run_often(run, inputs, name)


def run_often(run: Callable[..., None], inputs: moe_cases.Inputs, name: str) -> None:
    expected = moe_cases.reference().run(*inputs.args())
    for call in range(100):
        output = moe_cases.poisoned_output(inputs)
        run(*inputs.args(), output)
        if call % 10 == 0:
            moe_cases.check(output, expected, inputs, f"{name} call {call}")
    torch.cuda.synchronize()
    moe_cases.check(output, expected, inputs, f"{name} at the end")


def test_changing_inputs_under_one_address(variant: tuple[str, Callable[..., None]]) -> None:
    """New contents in the same tensors: nothing may be remembered by address."""
    name, run = variant
    inputs = full_size(57, 32, seed=1)
    run_and_check(run, inputs, f"{name} before")
    other = full_size(57, 32, "all_local", seed=2)
    tensors = ("routing_logits", "routing_bias", "hidden_states", "hidden_states_scale")
    for field in tensors:
        getattr(inputs, field).copy_(getattr(other, field))
    run_and_check(run, inputs, f"{name} after")


def test_two_streams(variant: tuple[str, Callable[..., None]]) -> None:
    """Two streams at once, T differing, many calls in flight."""
    name, run = variant
    cases = [full_size(57, 32, seed=3), full_size(300, 64, "all_local", seed=4)]
    expected = [moe_cases.reference().run(*case.args()) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    outputs: list[list[torch.Tensor]] = [
        [moe_cases.poisoned_output(case) for _ in range(8)] for case in cases
    ]
    torch.cuda.synchronize()
    for call in range(8):
        for case, stream, outs in zip(cases, streams, outputs, strict=True):
            with torch.cuda.stream(stream):
                run(*case.args(), outs[call])
    torch.cuda.synchronize()
    for case, outs, want in zip(cases, outputs, expected, strict=True):
        for call, out in enumerate(outs):
            moe_cases.check(out, want, case, f"{name} on its own stream, call {call}")


@triton.jit
def _occupy(started, until_set):
    tl.atomic_add(started, 1)
    while tl.load(until_set, volatile=True) == 0:
        pass


# With few experts hopper_v14 has other tiles.
@pytest.mark.parametrize(
    ("tokens", "counts"),
    [(1, []), (24, []), (57, []), (128, []), (300, []), (57, [40, 9]), (100, [30, 30, 30, 100])],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)} experts",
)
def test_most_multiprocessors_taken(
    variant: tuple[str, Callable[..., None]], tokens: int, counts: list[int]
) -> None:
    """Another kernel keeps all but eight until the call has ended: thread blocks that run may not wait for those that cannot."""
    name, run = variant
    if not name.startswith("hopper"):
        pytest.skip("its thread blocks do not wait for each other in one launch")
    inputs = full_size(tokens, 32, seed=tokens)
    if counts:
        place_tokens(inputs, counts)
    expected = moe_cases.reference().run(*inputs.args())
    output = moe_cases.poisoned_output(inputs)
    started = torch.zeros(1, dtype=torch.int32, device="cuda")
    until_set = torch.zeros(1, dtype=torch.int32, pin_memory=True)
    taken = torch.cuda.get_device_properties(0).multi_processor_count - 8
    other, mine, done = torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Event()
    torch.cuda.synchronize()
    with torch.cuda.stream(mine):
        run(*inputs.args(), output)  # now its workspace on this stream is there
    torch.cuda.synchronize()
    output.fill_(float("nan"))
    torch.cuda.synchronize()
    try:
        with torch.cuda.stream(other):  # 1,024 threads leave too few registers for one of ours
            _occupy[(taken,)](started, until_set, num_warps=32)
        _wait_for(lambda: started.item() == taken, "the other kernel does not run")
        with torch.cuda.stream(mine):
            run(*inputs.args(), output)
            done.record()
        _wait_for(done.query, "waits for thread blocks that do not run")
    finally:
        until_set[0] = 1
        torch.cuda.synchronize()
    moe_cases.check(output, expected, inputs, f"{name} beside another kernel")


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@pytest.mark.parametrize("tokens", [16, 57, 129])
def test_combine_weights_of_zero(variant: tuple[str, Callable[..., None]], tokens: int) -> None:
    """The bias alone chooses the experts and every score is zero: words that carry their own arrival may not wait for another value."""
    name, run = variant
    inputs = full_size(tokens, 32, seed=tokens)
    inputs.routing_logits.fill_(-200.0)
    inputs.routing_bias.zero_()
    inputs.routing_bias[32:40] = 1.0
    run_and_check(run, inputs, f"{name} with weights of zero")


@pytest.mark.parametrize("tokens", [1, 57, 300, 4096])
def test_a_thread_that_has_not_used_the_device(
    variant: tuple[str, Callable[..., None]], tokens: int
) -> None:
    """A server calls from any of its threads: what earlier calls set up must not belong to theirs."""
    name, run = variant
    inputs = full_size(tokens, 32, seed=5)
    run_and_check(run, inputs, f"{name} in the thread that loaded it")
    expected = moe_cases.reference().run(*inputs.args())
    output = moe_cases.poisoned_output(inputs)
    torch.cuda.synchronize()
    with ThreadPoolExecutor(
        1
    ) as another:  # nothing but the solution, so that nothing else opens the device there
        another.submit(run, *inputs.args(), output).result()
    torch.cuda.synchronize()
    moe_cases.check(output, expected, inputs, f"{name} in another thread")


UNFIT: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "another dtype": (0, lambda t: t.double()),
    "another dtype of the same size": (0, lambda t: t.view(torch.int32)),
    "another number of dimensions": (1, lambda t: t[None]),
    "not contiguous": (2, lambda t: t.t().contiguous().t()),
    "on the CPU": (3, lambda t: t.cpu()),
    "transposed": (3, lambda t: t.t().contiguous()),
    "not aligned": (4, lambda t: t.new_empty(t.numel() + 1)[1:].view(t.shape)),
    "another number of experts": (5, lambda t: t[1:].contiguous()),
    "no tensor": (6, lambda t: None),
    "another number of blocks": (7, lambda t: t[:, 1:].contiguous()),
    "an offset beyond 32 bits": (8, lambda value: value + (1 << 32)),
    "no number": (9, lambda value: "2.5"),
    "another number of tokens": (10, lambda t: t[1:].contiguous()),
}
# Solutions that promise to refuse what does not fit, each with what it takes nevertheless.
REFUSING: dict[str, dict[str, str]] = {
    **{
        f"hopper_v{n}": {
            "another dtype of the same size": "compares the number of bits",
            "an offset beyond 32 bits": "keeps the lower 32",
        }
        for n in range(1, 9)
    },
    "hopper_v9": {},
    "hopper_v10": {},
    "hopper_v11": {},
    "hopper_v12": {},
    "hopper_v13": {},
    "hopper_v14": {},
    "hopper_v15": {},
    "triton_v6": {
        "not contiguous": "copies it",
        "not aligned": "has a kernel for it",
    },
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_refused(variant: tuple[str, Callable[..., None]], case: str) -> None:
    """Before anything is launched, whatever calls went before; the next call is as good as ever."""
    name, run = variant
    if name not in REFUSING:
        pytest.skip("does not promise to look at its arguments")
    if why := REFUSING[name].get(case):
        pytest.skip(f"takes what is {case}: {why}")
    inputs = full_size(7, 32, seed=6)
    run_and_check(run, inputs, f"{name} before an argument that is {case}")
    output = moe_cases.poisoned_output(inputs)
    arguments = [*inputs.args(), output]
    at, damage = UNFIT[case]
    arguments[at] = damage(arguments[at])
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        run(*arguments)
    torch.cuda.synchronize()
    # An output with too few tokens lies in this one's memory.
    assert output.view(torch.uint8).eq(0xFF).all(), f"{name} wrote with an argument {case}"
    run_and_check(run, inputs, f"{name} after an argument that was {case}")
