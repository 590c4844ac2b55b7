"""The physical floor of a workload: the least time this GPU needs for its bytes and its arithmetic.

    floor = max(bytes / read bandwidth, flops / dense FP8 rate)

The speedup over the reference says how slow the reference is; latency / floor says how good a
kernel is.
"""

import math
from dataclasses import dataclass
from typing import Literal

from harness.record import Ceilings, DefinitionInfo, WorkloadInfo

FP8_BYTES = 1
BF16_BYTES = 2
F32_BYTES = 4

COUNTED = (
    "FP8 weights and block scales of the active experts, hidden states and their scales of the "
    "tokens with a local "
    "expert, routing logits and bias, and the whole bf16 output; intermediates are taken to stay "
    "on chip"
)
"""What `floor_of` counts as bytes."""


@dataclass(frozen=True)
class Floor:
    """Least time of one workload."""

    bytes: int
    """Bytes that must cross device memory once."""
    flops: int
    """Multiplications and additions of both grouped GEMMs."""
    memory_us: float
    """bytes / read bandwidth."""
    compute_us: float
    """flops / dense FP8 rate."""

    @property
    def us(self) -> float:
        """The floor in microseconds: the larger of the two terms."""
        return max(self.memory_us, self.compute_us)

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """The term that binds."""
        return "memory" if self.memory_us >= self.compute_us else "compute"


def expert_bytes(axes: dict[str, int]) -> int:
    """Bytes of one expert: 3 x H x I FP8 weights (W13 is 2I x H, W2 is H x I) and one f32 scale per
    128 x 128 block.

    Raises:
        KeyError: an axis is not known.
    """
    weights = 3 * axes["hidden_size"] * axes["intermediate_size"] * FP8_BYTES
    blocks = axes["num_hidden_blocks"] * (
        axes["num_gemm1_out_blocks"] + axes["num_intermediate_blocks"]
    )
    return weights + blocks * F32_BYTES


def moved_bytes(axes: dict[str, int], seq_len: int, local_tokens: int, active_experts: int) -> int:
    """Bytes of one call, each counted once; see COUNTED.

    Raises:
        KeyError: an axis is not known.
    """
    hidden = axes["hidden_size"] * FP8_BYTES + axes["num_hidden_blocks"] * F32_BYTES
    routing = axes["num_experts"] * (seq_len * F32_BYTES + BF16_BYTES)
    output = seq_len * axes["hidden_size"] * BF16_BYTES
    return active_experts * expert_bytes(axes) + local_tokens * hidden + routing + output


def pair_flops(axes: dict[str, int]) -> int:
    """Operations of one (token, expert) pair: 2 x (2I x H) + 2 x (H x I) = 6 x H x I.

    Raises:
        KeyError: an axis is not known.
    """
    return 6 * axes["hidden_size"] * axes["intermediate_size"]


def floor_of(
    definition: DefinitionInfo, workload: WorkloadInfo, ceilings: Ceilings | None
) -> Floor | None:
    """Floor of one workload; None when a count, an axis or a ceiling is unknown."""
    pairs, tokens, experts = (
        workload.local_pairs,
        workload.local_tokens,
        workload.active_experts,
    )
    if ceilings is None or pairs is None or tokens is None or experts is None:
        return None
    rates = (ceilings.read_gb_per_s, ceilings.fp8_tflop_per_s)
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        return None
    try:
        moved = moved_bytes(definition.axes, workload.seq_len, tokens, experts)
        flops = pairs * pair_flops(definition.axes)
    except KeyError:
        return None
    # 1 GB/s moves 1e3 bytes in a microsecond; 1 TFLOP/s does 1e6 operations in one.
    return Floor(
        bytes=moved,
        flops=flops,
        memory_us=moved / (rates[0] * 1e3),
        compute_us=flops / (rates[1] * 1e6),
    )


def ratio_to_floor(latency_ms: float | None, floor: Floor | None) -> float | None:
    """latency / floor, 1.0 being the best possible; None when either is unknown."""
    if latency_ms is None or floor is None or floor.us <= 0 or not math.isfinite(latency_ms):
        return None
    return latency_ms * 1e3 / floor.us
