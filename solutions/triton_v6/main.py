"""DeepSeek-V3 FP8 block-scale MoE in pure Triton: four launches, prepared once per stream and shape."""

import threading
from contextlib import nullcontext

import torch

from .arguments import check, scalars
from .driver import Unsupported
from .launch import ALIGNMENT, Arguments, Plan, fields_of, launch, steps_for
from .tiles import Tiles, tiles_for
from .workspace import Workspace, Workspaces, buffers_for

_LOCK = threading.Lock()
_WORKSPACES = Workspaces()
# The host's time before the first launch counts like kernel time, so it avoids all that takes a microsecond:
# torch.cuda.current_stream() builds an object, torch.cuda.device() calls the runtime.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
_current_device = getattr(torch._C, "_cuda_getDevice", None)
_is_capturing = torch.cuda.is_current_stream_capturing
_device = torch.Tensor.get_device
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

    flashinfer-bench wants exactly these parameters.

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

    Raises:
        TypeError, ValueError: an argument does not fit, see `arguments`; nothing was launched.
        RuntimeError: the CUDA driver refused a launch.
    """
    _run(
        (
            routing_logits,
            routing_bias,
            hidden_states,
            hidden_states_scale,
            gemm1_weights,
            gemm1_weights_scale,
            gemm2_weights,
            gemm2_weights_scale,
            output,
        ),
        *scalars(local_expert_offset, routed_scaling_factor),
        None,
    )


def run_with(
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
    tiles: Tiles | None = None,
) -> None:
    """`run` with a choice of tiles: an entry of the tile table, or None for the one for T. Raises what `run` does."""
    _run(
        (
            routing_logits,
            routing_bias,
            hidden_states,
            hidden_states_scale,
            gemm1_weights,
            gemm1_weights_scale,
            gemm2_weights,
            gemm2_weights_scale,
            output,
        ),
        *scalars(local_expert_offset, routed_scaling_factor),
        tiles,
    )


def _run(
    tensors: tuple[torch.Tensor, ...], offset: int, factor: float, tiles: Tiles | None
) -> None:
    """A call through its plan if there is one.

    Args:
        tensors: those of `run`, in its order, output last.
        offset: id of the first local expert.
        factor: multiplies the normalised combine weights.
        tiles: entry of the tile table; default: the one for T.
    """
    _, _, x, _, _, _, w2, _, _ = tensors
    try:
        device = _device(x)
        addresses = tuple(map(_address, tensors))
    except TypeError:
        check(tensors)  # which names the one that is no tensor
        raise
    if device < 0:
        with _LOCK:
            _call(tensors, offset, factor, 0, None, tiles)
        return

    stream = _raw_stream(device)
    a, b, c, d, e, f, g, h, i = addresses
    key = None
    aligned = not (a | b | c | d | e | f | g | h | i) % ALIGNMENT
    if aligned and _current_device() == device and not _is_capturing():
        # The likeliest to differ between a process's calls; what else must be the same the plan asks.
        key = (x.shape, w2.shape, tiles)
    with _LOCK:
        plan = None if key is None else _WORKSPACES.get(device, stream).plans.get(key)
        if plan is None or not plan.fits(*tensors):
            _call(tensors, offset, factor, stream, key, tiles)
            return
        try:
            plan.launch(addresses, offset, factor)
        except BaseException:
            _WORKSPACES.drop(device, stream)
            raise


def _call(
    tensors: tuple[torch.Tensor, ...],
    offset: int,
    factor: float,
    stream: int,
    key: tuple | None,
    tiles: Tiles | None,
) -> None:
    """Launch through Triton's launcher, and keep a plan for the next call if there is a key for it and all is contiguous.

    Args:
        tensors: those of `run`, in its order, output last.
        offset: id of the first local expert.
        factor: multiplies the normalised combine weights.
        stream: raw handle of the current stream.
        key: of the plan; None if there must be none.
        tiles: entry of the tile table; default: the one for T.
    """
    check(tensors)
    *inputs, output = tensors
    x, w2 = inputs[2], inputs[6]
    num_tokens, hidden = x.shape
    num_local, _, inter = w2.shape
    device = x.device
    if num_tokens == 0:
        return
    tiles = (tiles or tiles_for(num_tokens)).for_hidden(hidden)
    on_gpu = device.type == "cuda"
    index = x.get_device()
    with torch.cuda.device(device) if on_gpu else nullcontext():
        # Memory that the caller's own capture allocates belongs to the caller's graph.
        captured_by_caller = on_gpu and _is_capturing()
        workspace = Workspace(device) if captured_by_caller else _WORKSPACES.get(index, stream)
        dense = torch.contiguous_format
        with torch.no_grad():
            args = Arguments(
                *[tensor.contiguous() for tensor in inputs],
                output if output.is_contiguous() else torch.empty_like(output, memory_format=dense),
            )
            steps = steps_for(args, tiles)
            try:
                buffers = buffers_for(workspace, num_tokens, num_local, hidden, inter, tiles)
                values = num_tokens, offset, factor
                found = launch(steps, fields_of(args), fields_of(buffers), *values)
            except BaseException:
                _WORKSPACES.drop(index, stream)
                raise
            if args.output is not output:
                output.copy_(args.output)
        if key is None or not all(tensor.is_contiguous() for tensor in tensors):
            return
        if workspace.plans.get(key, True) is None:
            return  # it was tried
        try:
            plan = Plan(steps, found, tensors, buffers, num_tokens, stream)
        except Unsupported:
            plan = None
        workspace.keep(key, plan)
