"""DeepSeek-V3 FP8 block-scale MoE in pure Triton: four launches, replayed as one CUDA graph."""

import threading
from contextlib import nullcontext

import torch

from .graphs import GraphCache
from .launch import Arguments, launch
from .tiles import Tiles, tiles_for
from .workspace import Workspace, Workspaces, buffers_for

_LOCK = threading.Lock()
_GRAPHS = GraphCache(capacity=64)
_WORKSPACES = Workspaces()
# What a replayed call costs on the host counts like kernel time, so it avoids all that takes a microsecond:
# torch.cuda.current_stream() builds an object, torch.no_grad() on every call would too.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
_is_capturing = torch.cuda.is_current_stream_capturing
_address = torch.Tensor.data_ptr


def run(
    routing_logits: torch.Tensor,
    routing_bias: torch.Tensor,
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor,
    gemm1_weights: torch.Tensor,
    gemm1_weights_scale: torch.Tensor,
    gemm2_weights: torch.Tensor,
    gemm2_weights_scale: torch.Tensor,
    local_expert_offset: int,
    routed_scaling_factor: float,
    output: torch.Tensor,
) -> None:
    """Route every token, run the local experts it chose, and write their weighted sum.

    Args:
        routing_logits: [T, E] f32.
        routing_bias: [E] bf16, added to the scores for the choice only.
        hidden_states: [T, H] f8 e4m3fn.
        hidden_states_scale: [H / 128, T] f32, signed.
        gemm1_weights: [L, 2I, H] f8 e4m3fn; rows 0..I-1 give the up projection, rows I..2I-1 the gate.
        gemm1_weights_scale: [L, 2I / 128, H / 128] f32, signed.
        gemm2_weights: [L, H, I] f8 e4m3fn.
        gemm2_weights_scale: [L, H / 128, I / 128] f32, signed.
        local_expert_offset: id of the first local expert.
        routed_scaling_factor: multiplies the normalised combine weights.
        output: [T, H] bf16, written in full.
    """
    tensors = (
        routing_logits,
        routing_bias,
        hidden_states,
        hidden_states_scale,
        gemm1_weights,
        gemm1_weights_scale,
        gemm2_weights,
        gemm2_weights_scale,
        output,
    )
    # A tensor would be a key by its identity, not by its value.
    if type(local_expert_offset) is not int:
        local_expert_offset = int(local_expert_offset)
    if type(routed_scaling_factor) is not float:
        routed_scaling_factor = float(routed_scaling_factor)
    if not hidden_states.is_cuda:
        with _LOCK:
            _call(tensors, local_expert_offset, routed_scaling_factor, stream=0)
        return

    stream = _raw_stream(hidden_states.get_device())
    key = None
    # Strides are not part of the key. Tensors whose transpose or slice could have the same address and shape are looked
    # at here (with T = H / 128 the scales are square); of the weights no other view is that similar.
    if (
        hidden_states_scale.is_contiguous()
        and hidden_states.is_contiguous()
        and routing_logits.is_contiguous()
        and output.is_contiguous()
        and not _is_capturing()
    ):
        # Shapes belong to the key: one address can be seen with several.
        key = (
            stream,
            local_expert_offset,
            routed_scaling_factor,
            hidden_states.shape,
            gemm2_weights.shape,
            *map(_address, tensors),
        )
    with _LOCK:
        if key is None or not _GRAPHS.replay(key):
            _call(tensors, local_expert_offset, routed_scaling_factor, stream, key)


@torch.no_grad()
def _call(
    tensors: tuple[torch.Tensor, ...],
    offset: int,
    factor: float,
    stream: int,
    key: tuple | None = None,
    tiles: Tiles | None = None,
) -> None:
    """Launch the kernels one by one, or capture them and replay the graph if `key` comes back.

    Args:
        tensors: those of `run`, in its order, output last.
        stream: raw handle of the current stream.
        key: key of the graph; None if there must be none.
        tiles: entry of the tile table; default: the one for T.
    """
    *inputs, output = tensors
    if not all(tensor.is_contiguous() for tensor in tensors):
        key = None  # a copy's address says nothing about the next call's
    args = Arguments(
        *[tensor.contiguous() for tensor in inputs],
        output if output.is_contiguous() else torch.empty_like(output).contiguous(),
    )
    num_tokens, hidden = args.x.shape
    num_local, _, inter = args.w2.shape
    device = args.x.device
    if num_tokens == 0:
        return
    tiles = (tiles or tiles_for(num_tokens)).for_hidden(hidden)
    on_gpu = device.type == "cuda"
    with torch.cuda.device(device) if on_gpu else nullcontext():
        # Memory that the caller's own capture allocates belongs to the caller's graph.
        captured_by_caller = on_gpu and _is_capturing()
        workspace = Workspace(device) if captured_by_caller else _WORKSPACES.get(device, stream)
        buffers = buffers_for(
            workspace, num_tokens, num_local, hidden, inter, tiles.quantise, tiles.float_pairs
        )

        def work() -> None:
            launch(args, buffers, tiles, offset, factor)

        capture = key is not None and _GRAPHS.wants_capture(key)
        if capture and _GRAPHS.capture(key, device, work, keep=buffers):
            _GRAPHS.replay(key)
            return
        try:
            work()
        except BaseException:
            _WORKSPACES.drop(device, stream)
            raise
    if args.output is not output:
        output.copy_(args.output)
