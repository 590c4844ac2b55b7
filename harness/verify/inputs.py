"""From cases to tensors: pure functions that parent and child both call.

Everything is drawn by seeded generators, so that the same case gives the same bits in both processes on one device.
"""

from dataclasses import dataclass

import torch

from harness.verify.cases import Case, Edit, Weights

BLOCK = 128  # elements under one scale
FP8 = torch.float8_e4m3fn
NUM_GROUPS = 8
TOP_K = 8
LOW = -80.0
TINY = 1e-8
HUGE = 1e4
CHECKSUM_WORDS = 1 << 24  # at a time, as each takes 24 bytes then
WEIGHT_NAMES = ("gemm1_weights", "gemm1_weights_scale", "gemm2_weights", "gemm2_weights_scale")
ACTIVATION_NAMES = ("routing_logits", "routing_bias", "hidden_states", "hidden_states_scale")

Tensors = dict[str, torch.Tensor]
CPU_THREADS = {"cpu": 1, "cuda": 4}
"""Most threads of parent and child each, by type of device. Both work on the CPU, on routing for instance, and the pool of one
would spin while that of the other works: with a thread for each of 32 cores, all checks on one solution took twice as long."""


@dataclass(frozen=True)
class Sizes:
    """The definition's constant axes, as far as inputs need them."""

    experts: int
    """E: experts of the whole layer."""
    local: int
    """L: experts held here."""
    hidden: int
    """H."""
    inter: int
    """I."""

    @classmethod
    def of(cls, axes: dict[str, int]) -> "Sizes":
        """From a definition's constant axes."""
        names = ("num_experts", "num_local_experts", "hidden_size", "intermediate_size")
        return cls(*(axes[name] for name in names))


def limit_threads(device: str) -> None:
    """Let torch use few threads in this process; fewer, if the user wants so, stay."""
    torch.set_num_threads(min(CPU_THREADS[torch.device(device).type], torch.get_num_threads()))


def make_weights(spec: Weights, sizes: Sizes, device: str) -> Tensors:
    """W13 [L, 2I, H] and W2 [L, H, I] in e4m3, and their scales [L, rows / 128, columns / 128] in f32, signed."""
    generator = torch.Generator(device).manual_seed(spec.seed)
    shapes = {
        "gemm1_weights": (sizes.local, 2 * sizes.inter, sizes.hidden),
        "gemm2_weights": (sizes.local, sizes.hidden, sizes.inter),
    }
    tensors: Tensors = {}
    for name, (local, rows, columns) in shapes.items():
        tensors[name] = fp8_normal(generator, local, rows, columns)
        scale = (local, rows // BLOCK, columns // BLOCK)
        tensors[f"{name}_scale"] = torch.randn(scale, generator=generator, device=device)
    if spec.equal:
        for tensor in tensors.values():
            tensor.view(torch.uint8)[1:] = tensor.view(torch.uint8)[:1]
    for edit in spec.edits:
        expert = tensors[edit.tensor][edit.row]
        # A row of scales weighs 128 rows of weights; a single row of weights would be lost in the tolerance.
        count = len(expert) // 8 if expert.dtype == FP8 else 1
        start = edit.seed % (len(expert) - count) if count > 1 else 0
        _redraw(expert[start : start + count], edit)
    return tensors


def make_activations(case: Case, sizes: Sizes, device: str) -> Tensors:
    """routing_logits [T, E] f32, routing_bias [E] bf16, hidden_states [T, H] e4m3, hidden_states_scale [H / 128, T] f32."""
    logits, bias = make_routing(case, sizes)
    generator = torch.Generator(device).manual_seed(case.seed)
    hidden = fp8_normal(generator, case.tokens, sizes.hidden)
    shape = (sizes.hidden // BLOCK, case.tokens)
    scale = torch.randn(shape, generator=generator, device=device)
    tensors = {
        "routing_logits": logits.to(device),
        "routing_bias": bias.bfloat16().to(device),
        "hidden_states": hidden,
        "hidden_states_scale": _shaped(scale, case.scales),
    }
    for edit in case.edits:
        tensor = tensors[edit.tensor]
        by_token = tensor.t() if edit.tensor == "hidden_states_scale" else tensor
        _redraw(by_token[edit.row : edit.row + 1], edit)
    return tensors


def fp8_normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """N(0, 1) clamped to [-2, 2], as flashinfer-bench draws FP8 inputs."""
    out = torch.empty(shape, dtype=FP8, device=generator.device)
    for part in out if len(shape) == 3 else [out]:  # one expert's float32 copy at a time
        x = torch.randn(part.shape, generator=generator, device=generator.device)
        part.copy_(x.clamp_(-2.0, 2.0))
    return out


def checksum(tensor: torch.Tensor, seed: int) -> int:
    """A sum, modulo 2^64, over a tensor's 32-bit words times factors that depend on `seed` and on the place.

    The factors are odd, so one changed word always changes it. Whoever does not know `seed` cannot make a change that keeps
    it.

    Args:
        tensor: contiguous, of a multiple of four bytes.
    """
    words = tensor.view(torch.uint8).flatten().view(torch.int32)
    total = 0
    for start in range(0, words.numel(), CHECKSUM_WORDS):
        part = words[start : start + CHECKSUM_WORDS].long()
        place = torch.arange(start, start + part.numel(), device=part.device)
        factor = (place + seed % (1 << 31)) * 0x5851F42D4C957F2D  # wraps, as all of this does
        factor = (factor ^ (factor >> 29)) | 1
        total += int((part * factor).sum())
    return total % (1 << 64)


def make_routing(case: Case, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [T, E] and bias [E], both f32 on the CPU, for one of `cases.ROUTINGS`.

    random: plain normal. no_local, one_expert, all_local, half_local: the chosen experts are none of the local ones; one
    local one for all tokens; local ones alone; local ones for every other token. tie_experts: the eighth place is shared
    by four local experts. tie_groups: the fourth group's place is shared by three groups. tie_all: all logits are equal.
    saturated: eight experts at +80, all others at -80. all_low: all at -80, the bias decides. large_bias: a bias of +-30.
    dataset: read from where `case.stored_logits` and `case.stored_bias` say.
    """
    generator = torch.Generator().manual_seed(case.seed)
    tokens, experts = case.tokens, sizes.experts
    zeros = torch.zeros(experts)
    if case.routing == "tie_all":
        return torch.zeros(tokens, experts), zeros
    logits = torch.randn(tokens, experts, generator=generator)
    if case.routing in ("random", "dataset"):
        bias = 0.1 * torch.randn(experts, generator=generator)
        return _stored(case.stored_logits, logits), _stored(case.stored_bias, bias)
    if case.routing == "large_bias":
        signs = torch.ones(experts)
        signs[torch.randperm(experts, generator=generator)[: experts - 3 * TOP_K]] = -1.0
        return logits, 30.0 * signs
    if case.routing == "all_low":
        bias = torch.full((experts,), -4.0)
        bias[choose_experts(case, sizes, generator)[0]] = 4.0 + 0.25 * torch.arange(TOP_K)
        return torch.full((tokens, experts), LOW), bias
    if case.routing == "saturated":
        logits = torch.full((tokens, experts), LOW)
        return logits.scatter_(1, choose_experts(case, sizes, generator), -LOW), zeros
    # Chosen experts score above 0.88 and others below 0.27: clear for any rounding, except where a tie is wanted.
    logits = torch.rand(tokens, experts, generator=generator) - 2.0
    chosen = choose_experts(case, sizes, generator)
    logits.scatter_(1, chosen, 2.0 + torch.rand(chosen.shape, generator=generator))
    if case.routing == "tie_experts":
        logits.scatter_(1, chosen[:, TOP_K - 1 :], 1.5)
    bias = 0.05 * (torch.rand(experts, generator=generator) - 0.5)
    if case.routing == "tie_experts":
        return logits, zeros
    if case.routing == "tie_groups":
        return _tied_groups(case, sizes, generator), zeros
    return logits, bias


def choose_experts(case: Case, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    """Ids [T, 8] of each token's experts (tie_experts: [T, 11], seven clear ones and four for the eighth place)."""
    tokens, size = case.tokens, sizes.experts // NUM_GROUPS
    local = torch.arange(case.offset, case.offset + sizes.local)
    if case.routing == "tie_experts":
        # All of the group that holds most local experts, so that the group's own place is not in question.
        home = local[local // size == (local // size).mode().values]
        return home[_shuffled(generator, tokens, len(home))[:, : TOP_K + 3]]
    own = local[_shuffled(generator, tokens, sizes.local)]
    if case.routing == "all_local":
        return own[:, :TOP_K]
    # Group by group, so that no token needs experts of more than four.
    groups = _shuffled(generator, tokens, NUM_GROUPS)
    pool = (groups[:, :, None] * size + torch.arange(size)).flatten(1)
    is_local = (pool >= case.offset) & (pool < case.offset + sizes.local)
    away = pool.gather(1, is_local.byte().argsort(dim=1, stable=True)[:, :TOP_K])
    if case.routing == "no_local":
        return away
    if case.routing == "one_expert":
        return torch.cat([local[5:6].expand(tokens, 1), away[:, : TOP_K - 1]], dim=1)
    some = torch.cat([own[:, :3], away[:, : TOP_K - 3]], dim=1)
    if case.routing == "half_local":
        some[1::2] = away[1::2]
    return some


def _tied_groups(case: Case, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    """Three groups are clear, with two experts each; three more share the fourth place, among them that of the first local expert."""
    tokens, size = case.tokens, sizes.experts // NUM_GROUPS
    home = case.offset // size
    logits = torch.rand(tokens, sizes.experts, generator=generator) - 4.0
    others = _shuffled(generator, tokens, NUM_GROUPS - 1)
    others += others >= home
    groups = torch.cat([others[:, :5], torch.full((tokens, 1), home)], dim=1)
    members = _shuffled(generator, tokens, 6, size)[..., :2] + groups[:, :, None] * size
    values = torch.ones(members.shape)
    values[:, :3] = 2.0 + torch.rand((tokens, 3, 2), generator=generator)
    return logits.scatter_(1, members.flatten(1), values.flatten(1))


def _shuffled(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Numbers from 0 along the last axis, each time in another order."""
    return torch.rand(shape, generator=generator).argsort(dim=-1)


def _stored(where: tuple[str, str] | None, drawn: torch.Tensor) -> torch.Tensor:
    """The tensor that lies at a file and key, or the one that was drawn."""
    if where is None:
        return drawn
    from safetensors import safe_open

    file, key = where
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(key).float()


def _shaped(scale: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "tiny":
        return scale.mul_(TINY)
    if kind == "huge":
        return scale.mul_(HUGE)
    if kind == "negative":
        return scale.abs_().neg_()
    if kind == "mixed":  # within each token, blocks of very different size
        blocks = torch.arange(scale.shape[0], device=scale.device)
        factor = torch.where(blocks % 3 == 1, TINY, torch.where(blocks % 3 == 2, 64.0, 1.0))
        return scale.mul_(factor[:, None])
    return scale


def _redraw(row: torch.Tensor, edit: Edit) -> None:
    """Draw a row anew, in its own dtype; a bias is one value, its row is an expert."""
    generator = torch.Generator(row.device).manual_seed(edit.seed)
    fresh = torch.randn(row.shape, generator=generator, device=row.device)
    row.copy_(fresh.clamp_(-2.0, 2.0))
