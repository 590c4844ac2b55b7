"""The four launches of one call: through Triton's launcher the first time, straight to the driver afterwards.

Triton's launcher looks a kernel up by the properties of all its arguments on every launch, which costs the host several
times what the launch itself does. A plan keeps what the lookup found for one stream and one set of shapes. No address of
the caller's is part of it, so it serves any tensors that have the same shapes, strides, types and device (`Plan.fits`); only
they must be aligned as the kernels were compiled for.
"""

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

from .arguments import guard
from .driver import POINTER, Launch, Launches, Place
from .gemm import combine_kernel, gemm1_kernel, gemm2_kernel
from .routing import route_kernel
from .tiles import Gemm, Tiles
from .workspace import Buffers, row_blocks

# Few, so that programs walk over several tiles there as they do on a GPU.
INTERPRETER_PROCESSORS = 4
COMBINE_COLUMNS = 1024
ALIGNMENT = 16  # bytes; what Triton takes for granted of addresses that were multiples of it when it compiled


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


@dataclass(frozen=True)
class Step:
    """One kernel with all that shapes decide about its launch; it is called with the kernel's run-time arguments."""

    kernel: Any
    grid: tuple[int, int, int]
    constants: dict[str, Any]
    """Compile-time arguments, in the order of the kernel's last parameters."""
    options: dict[str, Any]

    def __call__(self, *args: Any) -> Any:
        """Launch on the current stream; returns the compiled kernel (the interpreter has none)."""
        return self.kernel[self.grid](*args, **self.constants, **self.options)


@dataclass(frozen=True)
class Steps:
    """The launches of one call."""

    route: Callable[..., Any]
    gemm1: Callable[..., Any]
    gemm2: Callable[..., Any]
    combine: Callable[..., Any]


def _options(pdl: bool, **options: int) -> dict[str, Any]:
    """Launch options; the interpreter knows no dependent launch."""
    return {**options, **({"launch_pdl": True} if pdl else {})}


def steps_for(args: Arguments, tiles: Tiles, pdl: bool | None = None) -> Steps:
    """The launches for tensors of these shapes.

    Args:
        args: only shapes and the device count.
        tiles: entry of the tile table.
        pdl: let a kernel start while the one before it drains; default: if the GPU can.
    """
    device = args.x.device
    if pdl is None:
        pdl = has_dependent_launch(device)
    num_tokens, hidden = args.x.shape
    num_local, _, inter = args.w2.shape
    columns = min(COMBINE_COLUMNS, triton.next_power_of_2(hidden))

    def gemm(kernel: Any, shape: Gemm, width: int) -> Step:
        blocks = row_blocks(num_tokens, num_local, shape.block_n)
        programs = min(blocks * width // shape.block_m, shape.programs_per_sm * processors(device))
        sizes = {"HIDDEN": hidden, "INTER": inter, "NUM_LOCAL": num_local}
        tile = {"BLOCK_M": shape.block_m, "BLOCK_N": shape.block_n, "UNROLL": shape.unroll}
        constants = {**sizes, **tile, "SWAP": shape.swap, "AHEAD": shape.ahead, "PDL": pdl}
        options = _options(pdl, num_warps=shape.warps, num_stages=shape.stages)
        return Step(kernel, (programs, 1, 1), constants, options)

    return Steps(
        Step(
            route_kernel,
            (num_tokens, 1, 1),
            {"NUM_EXPERTS": args.logits.shape[1], "NUM_LOCAL": num_local, "PDL": pdl},
            {"num_warps": 1},
        ),
        gemm(gemm1_kernel, tiles.gemm1, inter),
        gemm(gemm2_kernel, tiles.gemm2, hidden),
        Step(
            combine_kernel,
            (num_tokens, triton.cdiv(hidden, columns), 1),
            {"HIDDEN": hidden, "NUM_LOCAL": num_local, "BLOCK_H": columns, "PDL": pdl},
            _options(pdl, num_warps=4),
        ),
    )


def launch(
    steps: Steps,
    tensors: tuple[Any, ...],
    buffers: tuple[Any, ...],
    num_tokens: int | Place,
    offset: int | Place,
    factor: float | Place,
) -> tuple[Any, ...]:
    """The whole call, without waiting.

    Args:
        steps: as made for the shapes.
        tensors: the fields of Arguments in order.
        buffers: the fields of Buffers in order.
        num_tokens: T.
        offset: id of the first local expert.
        factor: multiplies the normalised combine weights.

    Returns:
        what the steps returned. Values are only handed on, so `Plan` gives it the places of values.
    """
    logits, bias, x, x_scale, w13, w13_scale, w2, w2_scale, output = tensors
    counts, rows, expert, weight, inter, inter_scale, staged, arrived, pairs = buffers
    lists, made = (counts, rows), (inter, inter_scale)
    return (
        steps.route(logits, bias, counts, rows, expert, weight, num_tokens, offset, factor),
        steps.gemm1(x, x_scale, w13, w13_scale, *lists, *made, staged, arrived, num_tokens),
        steps.gemm2(*made, w2, w2_scale, *lists, pairs, num_tokens),
        steps.combine(pairs, expert, weight, counts, output),
    )


def fields_of(record: Arguments | Buffers | Steps) -> tuple[Any, ...]:
    """The fields of a record in order, not copied."""
    return tuple(record.__dict__.values())


class Plan:
    """The launches of one stream and one set of shapes, ready but for the tensors' addresses, and the buffers they use."""

    _VALUES = struct.Struct("=9Qif")  # the addresses of the tensors, offset, factor
    _ADDRESSES, _OFFSET, _FACTOR = range(0, 72, 8), 72, 76  # where they lie in it

    def __init__(
        self,
        steps: Steps,
        compiled: tuple[Any, ...],
        tensors: tuple[torch.Tensor, ...],
        buffers: Buffers,
        num_tokens: int,
        stream: int,
    ) -> None:
        """
        Args:
            steps: the launches of a call, which are on their way.
            compiled: what they returned.
            tensors: the call's, the fields of Arguments in order.
            buffers: what they use.
            num_tokens: T.
            stream: raw handle.

        Raises:
            Unsupported: a kernel can only be launched through Triton's launcher.
        """
        self.fits = guard(tensors)
        """Whether tensors, as many arguments, are like the ones it was made of."""
        held = [t.data_ptr() for t in fields_of(buffers)]
        self._keep = buffers, compiled
        self._values = ctypes.create_string_buffer(self._VALUES.size)
        self._held = (ctypes.c_uint64 * len(held))(*held)
        self._num_tokens = ctypes.c_int32(num_tokens)
        # `launch` itself says which kernel takes what: it is given the places of the values, and steps that return them.
        base, at = ctypes.addressof(self._values), ctypes.addressof(self._held)
        places: tuple[tuple[Place, ...], ...] = launch(
            Steps(*[lambda *args: args] * 4),
            tuple(Place(base + start, POINTER) for start in self._ADDRESSES),
            tuple(Place(at + POINTER * index, POINTER) for index in range(len(held))),
            Place(ctypes.addressof(self._num_tokens), 4),
            Place(base + self._OFFSET, 4),
            Place(base + self._FACTOR, 4),
        )
        self._launch = Launches(
            [
                Launch(kernel, step.grid, stream, parameters)
                for kernel, step, parameters in zip(compiled, fields_of(steps), places, strict=True)
            ]
        )

    def launch(self, addresses: tuple[int, ...], offset: int, factor: float) -> None:
        """The whole call on the tensors at `addresses`, the fields of Arguments in order."""
        self._VALUES.pack_into(self._values, 0, *addresses, offset, factor)
        self._launch()
