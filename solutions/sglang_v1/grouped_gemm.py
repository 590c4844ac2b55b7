"""The arguments of `sgl_kernel.fp8_blockwise_scaled_grouped_mm` besides the matrices."""

from dataclasses import dataclass

import torch
from sgl_kernel import fp8_blockwise_scaled_grouped_mm

# As much as the kernel's own tests give it; it needs the tensor maps of every SM, about 70 KB.
WORKSPACE_BYTES = 1 << 30


@dataclass
class GemmScratch:
    """Arrays that the grouped GEMM fills on the device before it starts."""

    a_ptrs: torch.Tensor  # each [L] int64
    b_ptrs: torch.Tensor
    out_ptrs: torch.Tensor
    a_scale_ptrs: torch.Tensor
    b_scale_ptrs: torch.Tensor
    layout_sfa: torch.Tensor  # [L, 5] int32: CUTLASS layouts of the scales
    layout_sfb: torch.Tensor
    workspace: torch.Tensor  # [WORKSPACE_BYTES] uint8

    @classmethod
    def allocate(cls, num_local: int, device: torch.device) -> "GemmScratch":
        """Uninitialised arrays for `num_local` experts."""

        def ptrs() -> torch.Tensor:
            return torch.empty(num_local, dtype=torch.int64, device=device)

        def layout() -> torch.Tensor:
            return torch.empty(num_local, 5, dtype=torch.int32, device=device)

        return cls(
            a_ptrs=ptrs(),
            b_ptrs=ptrs(),
            out_ptrs=ptrs(),
            a_scale_ptrs=ptrs(),
            b_scale_ptrs=ptrs(),
            layout_sfa=layout(),
            layout_sfb=layout(),
            workspace=torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device),
        )


def grouped_gemm(
    out: torch.Tensor,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    weights: torch.Tensor,
    weights_scale: torch.Tensor,
    problem_sizes: torch.Tensor,
    expert_offsets: torch.Tensor,
    scratch: GemmScratch,
) -> None:
    """out[rows of expert e] = a[rows of expert e] @ weights[e].T, both dequantised by 128-blocks.

    Rows past the last expert's are left as they are.

    Args:
        out: [P, N] bfloat16, written.
        a: [P, K] float8_e4m3fn, rows sorted by expert.
        a_scale: [P, K / 128] float32.
        weights: [L, N, K] float8_e4m3fn.
        weights_scale: [L, N / 128, K / 128] float32.
        problem_sizes: [L, 3] int32, (rows, N, K) of every expert.
        expert_offsets: [L + 1] int32, first row of every expert.
        scratch: overwritten.
    """
    num_local, n, k = weights.shape
    stride_ab = torch.full((num_local,), k, dtype=torch.int64, device=a.device)
    stride_c = torch.full((num_local,), n, dtype=torch.int64, device=a.device)
    fp8_blockwise_scaled_grouped_mm(
        out,
        scratch.a_ptrs,
        scratch.b_ptrs,
        scratch.out_ptrs,
        scratch.a_scale_ptrs,
        scratch.b_scale_ptrs,
        a,
        weights.transpose(1, 2),  # the op wants [L, K, N] views of K-major storage
        a_scale,
        weights_scale.transpose(1, 2),
        stride_ab,
        stride_ab,
        stride_c,
        scratch.layout_sfa,
        scratch.layout_sfb,
        problem_sizes,
        expert_offsets[:-1],
        scratch.workspace,
    )
