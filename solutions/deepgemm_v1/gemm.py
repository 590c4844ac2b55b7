"""DeepGEMM's grouped GEMMs over the buffers of a call."""

import deep_gemm
import torch

from .layouts import Layout

# Scales are float32 per row and 128 columns of a, and per 128 x 128 block of the weights.
RECIPE = (1, 128, 128)


def grouped_gemm(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    weights: torch.Tensor,
    weights_scale: torch.Tensor,
    out: torch.Tensor,
    counts: torch.Tensor,
    ends: torch.Tensor,
    layout: Layout,
    expected_rows: int,
) -> None:
    """out[rows of expert e] = a[rows of expert e] @ weights[e].T, dequantised by blocks.

    The number of rows comes from device memory: only tiles with pairs are computed, and the host waits for nothing.

    Args:
        a: [R, K] f8.
        a_scale: [K / 128, R] f32, or [L, K / 128, R / L] if masked: with the rows next to each other, as the TMA loads
            want it, so that DeepGEMM takes it as it is.
        weights: [L, N, K] f8.
        weights_scale: [L, N / 128, K / 128] f32.
        out: [R, N] bf16; of whole tiles with at least one pair all rows are written.
        counts: [L] i32, used if masked.
        ends: [L] i32, the row after each expert's last pair, used if not masked: "psum" is DeepGEMM's word for it.
        layout: where an expert's rows begin.
        expected_rows: rows of an expert, by which DeepGEMM chooses a tile shape.
    """
    num_local = weights.shape[0]
    # Scales are signed and must stay float32: power-of-two scales hold neither their signs nor their values.
    common = {"recipe": RECIPE, "disable_ue8m0_cast": True}
    weights_pair = (weights, weights_scale)
    if layout.masked:
        deep_gemm.m_grouped_fp8_fp4_gemm_nt_masked(
            (a.view(num_local, -1, a.shape[1]), a_scale.transpose(1, 2)),
            weights_pair,
            out.view(num_local, -1, out.shape[1]),
            counts,
            expected_rows,
            **common,
        )
    else:
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
            (a, a_scale.t()),
            weights_pair,
            out,
            ends,
            use_psum_layout=True,
            expected_m_for_psum_layout=expected_rows,
            **common,
        )


def set_alignment(layout: Layout) -> None:
    """Tell DeepGEMM, whose setting is global, how many rows a block has in the layout without masks."""
    if not layout.masked:
        deep_gemm.set_mk_alignment_for_contiguous_layout(layout.align)
