"""SwiGLU by `sgl_kernel.silu_and_mul`, and FP8 quantisation of its result in PyTorch."""

import torch
from sgl_kernel import silu_and_mul

BLOCK = 128
FP8_MAX = 448.0
MIN_AMAX = 1e-10  # keeps the scale of an all-zero group off zero


def swiglu(up_and_gate: torch.Tensor) -> torch.Tensor:
    """silu(second half) * first half.

    Args:
        up_and_gate: [P, 2 * I] bfloat16.

    Returns:
        [P, I] bfloat16.
    """
    inter = up_and_gate.shape[1] // 2
    # silu_and_mul takes its gate from the first half, the operation has it in the second.
    gate_first = torch.cat([up_and_gate[:, inter:], up_and_gate[:, :inter]], dim=1)
    return silu_and_mul(gate_first)


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 with one scale per row and 128 elements, x ~ values * scale.

    Args:
        x: [P, I] bfloat16.

    Returns:
        values [P, I] float8_e4m3fn, scales [P, I / BLOCK] float32.
    """
    rows, inter = x.shape
    groups = x.float().view(rows, inter // BLOCK, BLOCK)
    scale = groups.abs().amax(dim=-1).clamp_(min=MIN_AMAX) / FP8_MAX
    values = (groups / scale[:, :, None]).clamp_(-FP8_MAX, FP8_MAX)
    return values.to(torch.float8_e4m3fn).view(rows, inter), scale
