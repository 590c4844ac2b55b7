"""The four launches of one call: through Triton's launcher the first time, straight to the compiled kernels afterwards.

Triton's launcher looks a kernel up by the properties of all its arguments on every launch, which costs the host several
times what the launch itself does. A plan keeps what the lookup found for one stream and one set of shapes. No address of
the caller's is part of it, so it serves any tensors of these shapes; only they must be aligned as the kernels were compiled
for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

from .gemm import combine_kernel, gemm1_kernel, gemm2_kernel
from .routing import route_kernel
from .tiles import Gemm, Tiles
from .workspace import SLOTS, Buffers

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


def row_blocks(num_tokens: int, num_local: int, block_n: int) -> int:
    """The most row blocks that any routing can need: an expert's last block may be partly empty."""
    pairs = num_tokens * min(SLOTS, num_local)
    return min(pairs, pairs // block_n + num_local)


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

    def prepared(self, compiled: Any, stream: int) -> Callable[..., None]:
        """The same with addresses for tensors, on `stream` of the current device."""
        launch, constants = compiled[self.grid], tuple(self.constants.values())
        return lambda *args: launch(*args, *constants, stream=stream)


@dataclass(frozen=True)
class Steps:
    """The launches of one call, each a Step or a prepared one."""

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

    def gemm(kernel: Any, shape: Gemm, width: int, **constants: Any) -> Step:
        blocks = row_blocks(num_tokens, num_local, shape.block_n)
        programs = min(blocks * width // shape.block_m, shape.programs_per_sm * processors(device))
        sizes = {"HIDDEN": hidden, "INTER": inter, "NUM_LOCAL": num_local}
        tile = {"BLOCK_M": shape.block_m, "BLOCK_N": shape.block_n, "UNROLL": shape.unroll}
        constants = {**sizes, **tile, "SWAP": shape.swap, **constants, "PDL": pdl}
        options = _options(pdl, num_warps=shape.warps, num_stages=shape.stages)
        return Step(kernel, (programs, 1, 1), constants, options)

    return Steps(
        Step(
            route_kernel,
            (num_tokens, 1, 1),
            {"NUM_EXPERTS": args.logits.shape[1], "NUM_LOCAL": num_local, "PDL": pdl},
            {"num_warps": 1},
        ),
        gemm(gemm1_kernel, tiles.gemm1, inter, QUANTISE=tiles.quantise),
        gemm(
            gemm2_kernel,
            tiles.gemm2,
            hidden,
            QUANTISED=tiles.quantise,
            GRANULES=tiles.granules,
            PARTS=tiles.parts,
            PREFETCH=tiles.gemm2.prefetch and pdl,
        ),
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
    num_tokens: int,
    offset: int,
    factor: float,
) -> tuple[Any, ...]:
    """The whole call, without waiting.

    Args:
        steps: as made for the shapes.
        tensors: the fields of Arguments in order; addresses for prepared steps.
        buffers: the fields of Buffers in order; addresses for prepared steps.
        num_tokens: T.
        offset: id of the first local expert.
        factor: multiplies the normalised combine weights.

    Returns:
        what the steps returned.
    """
    logits, bias, x, x_scale, w13, w13_scale, w2, w2_scale, output = tensors
    counts, rows, expert, weight, inter, inter_scale, pairs = buffers
    return (
        steps.route(logits, bias, counts, rows, expert, weight, num_tokens, offset, factor),
        steps.gemm1(x, x_scale, w13, w13_scale, counts, rows, inter, inter_scale, num_tokens),
        steps.gemm2(inter, inter_scale, w2, w2_scale, counts, rows, pairs, num_tokens),
        steps.combine(pairs, expert, weight, counts, output),
    )


def fields_of(record: Arguments | Buffers | Steps) -> tuple[Any, ...]:
    """The fields of a record in order, not copied."""
    return tuple(record.__dict__.values())


class Plan:
    """Prepared launches of one stream and one set of shapes, and the buffers that they use."""

    def __init__(
        self,
        steps: Steps,
        compiled: tuple[Any, ...],
        buffers: Buffers,
        num_tokens: int,
        stream: int,
    ) -> None:
        self._steps = Steps(
            *(s.prepared(c, stream) for s, c in zip(fields_of(steps), compiled, strict=True))
        )
        self._keep = buffers
        self._addresses = tuple(t.data_ptr() for t in fields_of(buffers))
        self._num_tokens = num_tokens

    def launch(self, addresses: tuple[int, ...], offset: int, factor: float) -> None:
        """The whole call on the tensors at `addresses`, the fields of Arguments in order."""
        launch(self._steps, addresses, self._addresses, self._num_tokens, offset, factor)
