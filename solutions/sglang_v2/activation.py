"""SwiGLU on views of the GEMM's result, and FP8 quantisation by sgl_kernel."""

import torch
from sgl_kernel import sgl_per_token_group_quant_8bit

BLOCK = 128
FP8_MAX = 448.0
MIN_AMAX = 1e-10  # the only value that the kernel's second version accepts


def swiglu(up_and_gate: torch.Tensor) -> torch.Tensor:
    """silu(second half) * first half, no copy of either half.

    Args:
        up_and_gate: [P, 2 * I] bfloat16.

    Returns:
        [P, I] bfloat16, contiguous.
    """
    inter = up_and_gate.shape[1] // 2
    return torch.nn.functional.silu(up_and_gate[:, inter:]).mul_(up_and_gate[:, :inter])


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 with one scale per row and 128 elements, x ~ values * scale.

    Args:
        x: [P, I] bfloat16, contiguous.

    Returns:
        values [P, I] float8_e4m3fn, scales [P, I / BLOCK] float32 (row-major, as the GEMM reads them).
    """
    rows, inter = x.shape
    values = torch.empty(rows, inter, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, inter // BLOCK, dtype=torch.float32, device=x.device)
    sgl_per_token_group_quant_8bit(x, values, scale, BLOCK, MIN_AMAX, -FP8_MAX, FP8_MAX)
    return values, scale
