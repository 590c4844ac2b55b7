"""SwiGLU and FP8 quantisation in one CUDA kernel of sgl_kernel."""

import torch
from sgl_kernel import sgl_per_token_group_quant_8bit

from .kernels import BLOCK

FP8_MAX = 448.0
MIN_AMAX = 1e-10  # the only value that the operation accepts
# Its scheduler for a number of rows in device memory wants a multiple of this many scales per row.
MASKED_GROUPS = 16


def swiglu_quantise(
    gate_up: torch.Tensor,
    values: torch.Tensor,
    packed: torch.Tensor,
    expert_offsets: torch.Tensor,
) -> None:
    """silu(first half) * second half, quantised with the smallest power of two >= amax / 448 per 128 elements.

    The operation fuses the two only with packed scales: with float32 ones it ignores the flag and quantises the input's
    first half of memory.

    Args:
        gate_up: [P, 2 * I] bfloat16.
        values: [P, I] float8_e4m3fn, written.
        packed: [ceil(I / 512), P or more] int32, written: four biased exponents each.
        expert_offsets: [L + 1] int32; rows past the last entry are left out where the scheduler allows it.
    """
    inter = values.shape[1]
    scale = packed.t()  # [P, ceil(I / 512)] with the rows next to each other
    count = None
    if inter // BLOCK % MASKED_GROUPS == 0:
        # All rows as those of one expert of the masked layout.
        gate_up, values, scale = gate_up[None], values[None], scale[None]
        count = expert_offsets[-1:]
    sgl_per_token_group_quant_8bit(
        gate_up,
        values,
        scale,
        BLOCK,
        MIN_AMAX,
        -FP8_MAX,
        FP8_MAX,
        scale_ue8m0=True,
        fuse_silu_and_mul=True,
        masked_m=count,
    )
