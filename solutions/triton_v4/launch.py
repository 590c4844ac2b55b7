"""The four launches of one call."""

from dataclasses import dataclass
from functools import cache

import torch
import triton

from .gemm import combine_kernel, gemm1_kernel, gemm2_kernel
from .routing import route_kernel
from .tiles import Gemm, Tiles
from .workspace import SLOTS, Buffers

INTERPRETER_PROCESSORS = (
    4  # few, so that programs walk over several tiles there as they do on a GPU
)
COMBINE_COLUMNS = 1024


@dataclass(frozen=True)
class Arguments:
    """The operation's tensors, contiguous, in the order and with the shapes of its definition."""

    logits: torch.Tensor
    bias: torch.Tensor
    x: torch.Tensor
    x_scale: torch.Tensor
    w13: torch.Tensor
    w13_scale: torch.Tensor
    w2: torch.Tensor
    w2_scale: torch.Tensor
    output: torch.Tensor


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the device."""
    if device.type != "cuda":
        return INTERPRETER_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def has_dependent_launch(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it drains (programmatic dependent launch)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def row_blocks(num_tokens: int, num_local: int, block_n: int) -> int:
    """The most row blocks that any routing can need: an expert's last block may be partly empty."""
    pairs = num_tokens * min(SLOTS, num_local)
    return min(pairs, pairs // block_n + num_local)


def _grid(gemm: Gemm, blocks: int, columns: int, device: torch.device) -> tuple[int]:
    return (min(blocks * columns // gemm.block_m, gemm.programs_per_sm * processors(device)),)


def _attributes(pdl: bool) -> dict[str, bool]:
    """Launch attributes; the interpreter knows none."""
    return {"launch_pdl": True} if pdl else {}


def launch_route(
    args: Arguments, buffers: Buffers, offset: int, factor: float, pdl: bool = False
) -> None:
    """Choose experts and list each local expert's rows. Waits for all that came before on the stream."""
    route_kernel[(args.logits.shape[0],)](
        args.logits,
        args.bias,
        buffers.counts,
        buffers.rows,
        buffers.expert,
        buffers.weight,
        args.logits.shape[0],
        offset,
        factor,
        NUM_EXPERTS=args.logits.shape[1],
        NUM_LOCAL=args.w2.shape[0],
        PDL=pdl,
        num_warps=1,
    )


def launch_gemm1(
    args: Arguments, buffers: Buffers, gemm: Gemm, quantise: bool, pdl: bool = False
) -> None:
    """Up and gate projections and SwiGLU of every listed row."""
    num_tokens, hidden = args.x.shape
    num_local, _, inter = args.w2.shape
    blocks = row_blocks(num_tokens, num_local, gemm.block_n)
    gemm1_kernel[_grid(gemm, blocks, inter, args.x.device)](
        args.x,
        args.x_scale,
        args.w13,
        args.w13_scale,
        buffers.counts,
        buffers.rows,
        buffers.inter,
        buffers.inter_scale,
        num_tokens,
        HIDDEN=hidden,
        INTER=inter,
        NUM_LOCAL=num_local,
        BLOCK_M=gemm.block_m,
        BLOCK_N=gemm.block_n,
        UNROLL=gemm.unroll,
        SWAP=gemm.swap,
        QUANTISE=quantise,
        PDL=pdl,
        num_warps=gemm.warps,
        num_stages=gemm.stages,
        **_attributes(pdl),
    )


def launch_gemm2(
    args: Arguments, buffers: Buffers, gemm: Gemm, quantised: bool, pdl: bool = False
) -> None:
    """Down projection of every listed row."""
    num_tokens, hidden = args.x.shape
    num_local, _, inter = args.w2.shape
    blocks = row_blocks(num_tokens, num_local, gemm.block_n)
    gemm2_kernel[_grid(gemm, blocks, hidden, args.x.device)](
        buffers.inter,
        buffers.inter_scale,
        args.w2,
        args.w2_scale,
        buffers.counts,
        buffers.rows,
        buffers.pairs,
        num_tokens,
        HIDDEN=hidden,
        INTER=inter,
        NUM_LOCAL=num_local,
        BLOCK_M=gemm.block_m,
        BLOCK_N=gemm.block_n,
        UNROLL=gemm.unroll,
        SWAP=gemm.swap,
        QUANTISED=quantised,
        PREFETCH=gemm.prefetch and pdl,
        PDL=pdl,
        num_warps=gemm.warps,
        num_stages=gemm.stages,
        **_attributes(pdl),
    )


def launch_combine(args: Arguments, buffers: Buffers, pdl: bool = False) -> None:
    """Add up each token's rows, and leave the counters at zero for the next call."""
    num_tokens, hidden = args.x.shape
    columns = min(COMBINE_COLUMNS, triton.next_power_of_2(hidden))
    combine_kernel[(num_tokens, triton.cdiv(hidden, columns))](
        buffers.pairs,
        buffers.expert,
        buffers.weight,
        buffers.counts,
        args.output,
        HIDDEN=hidden,
        NUM_LOCAL=args.w2.shape[0],
        BLOCK_H=columns,
        PDL=pdl,
        num_warps=4,
        **_attributes(pdl),
    )


def launch(
    args: Arguments,
    buffers: Buffers,
    tiles: Tiles,
    offset: int,
    factor: float,
    pdl: bool | None = None,
) -> None:
    """The whole call, on the current stream, without waiting.

    Args:
        args: inputs, and the output, of which every element is written.
        buffers: as `buffers_for` makes them for `tiles`.
        tiles: entry of the tile table.
        offset: id of the first local expert.
        factor: multiplies the normalised combine weights.
        pdl: let a kernel start while the one before it drains; default: if the GPU can.
    """
    if pdl is None:
        pdl = has_dependent_launch(args.x.device)
    launch_route(args, buffers, offset, factor, pdl)
    launch_gemm1(args, buffers, tiles.gemm1, tiles.quantise, pdl)
    launch_gemm2(args, buffers, tiles.gemm2, tiles.quantise, pdl)
    launch_combine(args, buffers, pdl)
