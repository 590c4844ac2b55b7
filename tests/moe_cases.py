"""Inputs, routings and checks shared by the tests of the MoE solutions."""

import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from harness import manifest as manifest_module
from harness.definition import FULL, load_definition

ROOT = Path(__file__).resolve().parents[1]
FAMILY = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32"
NUM_EXPERTS = 256
NUM_LOCAL = 32
NUM_GROUPS = 8
TOP_K = 8
BLOCK = 128
SCALING = 2.5
VARIANTS = ("sglang_v1", "sglang_v2", "triton_v1", "triton_v2", "triton_v3", "sglang_triton")
SHAPED = (
    ("no_local", 0),
    ("no_local", 224),
    ("one_expert", 77),
    ("all_local", 0),
    ("half_local", 77),
    ("half_local", 224),
)
"""Routings of `make_inputs` with an offset: the first, an odd and the last one, each with and without local experts."""
TINY = {"hidden": 256, "inter": 128}
"""Sizes for `make_inputs`: a quarter of the sibling's work, for tests of what does not depend on them."""
TILE_ENTRIES = {
    "triton_v4": ("one", "few", "some", "many", "most"),
    "triton_v5": ("one", "few", "some", "many", "most"),
    "triton_v6": ("one", "few", "several", "some", "many", "most"),
}
"""The solutions in pure Triton with a table of tiles, and its entries in order."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)

_counter = itertools.count()


@dataclass(frozen=True)
class Inputs:
    """The operation's inputs, in its order."""

    routing_logits: torch.Tensor
    routing_bias: torch.Tensor
    hidden_states: torch.Tensor
    hidden_states_scale: torch.Tensor
    gemm1_weights: torch.Tensor
    gemm1_weights_scale: torch.Tensor
    gemm2_weights: torch.Tensor
    gemm2_weights_scale: torch.Tensor
    local_expert_offset: int
    routed_scaling_factor: float

    def args(self) -> tuple[torch.Tensor | int | float, ...]:
        return tuple(self.__dict__.values())

    def clone(self) -> "Inputs":
        tensors = {k: v.clone() for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


def load_file(path: Path, name: str) -> ModuleType:
    """Import one file under a module name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache
def reference() -> ModuleType:
    """The definition's reference implementation."""
    return load_file(ROOT / "definitions" / f"{FAMILY}_h7168_i2048" / "reference.py", "reference")


def load_variant(folder: str) -> Callable[..., None]:
    """The manifest's entry point, from a fresh import of the folder's sources as a package."""
    path = ROOT / "solutions" / folder
    variant = manifest_module.load_variant(path)
    if variant.manifest.language in ("cuda", "cpp"):
        return _build(variant)
    file, function = variant.manifest.entry_point.split("::")
    name = f"_{folder}_{next(_counter)}"
    package = ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package
    return getattr(importlib.import_module(f"{name}.{file.removesuffix('.py')}"), function)


def module(run: Callable[..., None], name: str) -> ModuleType:
    """A source of the folder that `run` was loaded from: its functions and tables."""
    return sys.modules[run.__module__.replace(".main", f".{name}")]


def _build(variant: manifest_module.Variant) -> Callable[..., None]:
    """Compiled by flashinfer-bench's builder, as in a benchmark."""
    from flashinfer_bench.compile import BuilderRegistry
    from flashinfer_bench.data import Definition, Solution

    definition = load_definition(ROOT / "definitions" / FULL)
    return BuilderRegistry.get_instance().build(
        Definition.model_validate(definition.definition_json()),
        Solution.model_validate(variant.solution_json(definition.name)),
    )


def fp8_normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """N(0, 1) clamped to [-2, 2], as flashinfer-bench draws FP8 inputs."""
    out = torch.empty(shape, dtype=torch.float8_e4m3fn, device=generator.device)
    for part in out if len(shape) == 3 else [out]:  # one expert's float32 copy at a time
        x = torch.randn(part.shape, generator=generator, device=generator.device)
        part.copy_(x.clamp_(-2.0, 2.0))
    return out


@lru_cache(maxsize=2)
def weights(hidden: int, inter: int, device: str) -> tuple[torch.Tensor, ...]:
    """W13, its scales, W2, its scales; scales are N(0, 1), so signed."""
    g = torch.Generator(device).manual_seed(1)

    def scale(rows: int, cols: int) -> torch.Tensor:
        shape = (NUM_LOCAL, rows // BLOCK, cols // BLOCK)
        return torch.randn(shape, generator=g, device=device)

    return (
        fp8_normal(g, NUM_LOCAL, 2 * inter, hidden),
        scale(2 * inter, hidden),
        fp8_normal(g, NUM_LOCAL, hidden, inter),
        scale(hidden, inter),
    )


def make_inputs(
    tokens: int,
    offset: int,
    routing: str = "random",
    *,
    hidden: int = 512,
    inter: int = 256,
    device: str = "cpu",
    seed: int = 0,
) -> Inputs:
    """Random inputs whose routing has a given shape.

    Args:
        tokens: T.
        offset: id of the first local expert.
        routing: "random"; "no_local": no token has a local expert; "one_expert": all tokens share
            one local expert and have no other; "all_local": all eight experts of every token are
            local; "half_local": tokens with and without local experts alternate.
        hidden: H.
        inter: I.
        device: where the tensors go.
        seed: of everything but the weights.
    """
    cpu = torch.Generator().manual_seed(seed)
    if routing == "random":
        logits = torch.randn(tokens, NUM_EXPERTS, generator=cpu)
        bias = torch.randn(NUM_EXPERTS, generator=cpu)
    else:
        # Chosen experts score above 0.88 and others below 0.27: clear for any rounding.
        logits = torch.rand(tokens, NUM_EXPERTS, generator=cpu) - 2.0
        for token in range(tokens):
            chosen = _choose(token, offset, routing, cpu)
            logits[token, chosen] = 2.0 + torch.rand(TOP_K, generator=cpu)
        bias = 0.05 * (torch.rand(NUM_EXPERTS, generator=cpu) - 0.5)
    g = torch.Generator(device).manual_seed(seed)
    w13, w13_scale, w2, w2_scale = weights(hidden, inter, device)
    return Inputs(
        logits.to(device),
        bias.bfloat16().to(device),
        fp8_normal(g, tokens, hidden),
        torch.randn(hidden // BLOCK, tokens, generator=g, device=device),
        w13,
        w13_scale,
        w2,
        w2_scale,
        offset,
        SCALING,
    )


def _choose(token: int, offset: int, routing: str, generator: torch.Generator) -> torch.Tensor:
    """Eight experts of at most four groups."""
    local = torch.arange(offset, offset + NUM_LOCAL)
    size = NUM_EXPERTS // NUM_GROUPS
    if routing == "all_local":
        return local[torch.randperm(NUM_LOCAL, generator=generator)[:TOP_K]]
    groups = torch.randperm(NUM_GROUPS, generator=generator)
    pool = torch.cat([torch.arange(size) + size * int(g) for g in groups])
    away = pool[(pool < offset) | (pool >= offset + NUM_LOCAL)]
    if routing == "no_local" or (routing == "half_local" and token % 2):
        return away[:TOP_K]
    if routing == "one_expert":
        return torch.cat([local[5:6], away[: TOP_K - 1]])
    assert routing == "half_local", routing
    own = local[torch.randperm(NUM_LOCAL, generator=generator)[:3]]
    return torch.cat([own, away[: TOP_K - 3]])


def poison(tensor: torch.Tensor) -> torch.Tensor:
    """Fill with NaN, or integers with their largest; bytes (GEMM scratch) stay."""
    if tensor.dtype in FLOATS:
        tensor.view(torch.uint8).fill_(0xFF)
    elif tensor.dtype in (torch.int32, torch.int64):
        tensor.fill_(torch.iinfo(tensor.dtype).max)
    return tensor


def poisoned_output(inputs: Inputs) -> torch.Tensor:
    """An output full of NaN."""
    x = inputs.hidden_states
    return poison(torch.empty(x.shape, dtype=torch.bfloat16, device=x.device))


def has_local(inputs: Inputs) -> torch.Tensor:
    """[T] bool: which tokens have a local expert."""
    ids, _ = reference().route(
        inputs.routing_logits, inputs.routing_bias, inputs.routed_scaling_factor
    )
    first = inputs.local_expert_offset
    return ((ids >= first) & (ids < first + NUM_LOCAL)).any(dim=1)


def check(output: torch.Tensor, expected: torch.Tensor, inputs: Inputs, what: str) -> None:
    """Compare an output with the reference's.

    The FP8 intermediate alone costs about 2.7% in relative L2 norm, so the bounds are 5% over all
    and 15% for any one token. flashinfer-bench's own measure is applied at the seed tolerance.
    """
    # Imported here: flashinfer_bench imports Triton, which conftest.py must precede.
    from flashinfer_bench.bench.config import BenchmarkConfig
    from flashinfer_bench.bench.utils import compute_error_stats

    what = f"{what}: T={output.shape[0]} H={output.shape[1]} offset={inputs.local_expert_offset}"
    bad = ~torch.isfinite(output.float())
    assert not bad.any(), f"{what}: {int(bad.any(dim=1).sum())} rows are not finite"
    away = ~has_local(inputs)
    stray = output[away].float().abs().sum(dim=1).count_nonzero()
    assert stray == 0, f"{what}: {int(stray)} of {int(away.sum())} tokens without a local expert"

    config = BenchmarkConfig(rtol=0.2, atol=0.1, required_matched_ratio=0.85)
    max_abs, max_rel, exceeds, ratio = compute_error_stats(output, expected, config)
    error = (output.float() - expected.float()).norm(dim=1)  # [T]
    norm = expected.float().norm(dim=1)
    l2 = float(error.norm() / norm.norm().clamp(min=1e-30))
    worst = float((error / norm.clamp(min=1e-30)).max())
    figures = (
        f"{what}: matched {ratio:.4f}, max abs {max_abs:.4g}, max rel {max_rel:.4g}, "
        f"L2 {l2:.4f}, worst token's L2 {worst:.4f}"
    )
    assert not exceeds and l2 < 0.05 and worst < 0.15, figures
