"""What a call's arguments must be. Kernels read addresses, so nothing else would notice what does not fit."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .driver import Unsupported
from .routing import GROUPS

NAMES = (
    "routing_logits",
    "routing_bias",
    "hidden_states",
    "hidden_states_scale",
    "gemm1_weights",
    "gemm1_weights_scale",
    "gemm2_weights",
    "gemm2_weights_scale",
    "output",
)
_F8, _F32, _BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16
DTYPES = (_F32, _BF16, _F8, _F32, _F8, _F32, _F8, _F32, _BF16)
BLOCK = 128  # elements that share a scale
LIMIT = 1 << 31  # of what kernels hold in 32 bits, signed
LARGEST = torch.finfo(_F32).max


def scalars(offset: Any, factor: Any) -> tuple[int, float]:
    """The offset and the factor as an int and a float, of anything that is such a number.

    Raises:
        TypeError: it is none.
        ValueError: it is several, or beyond 32 bits.
    """
    name = "local_expert_offset"
    try:
        offset = operator.index(offset)
        name = "routed_scaling_factor"
        factor = math.ldexp(factor, 0)  # unlike float() it takes no text
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from None
    if not -LIMIT <= offset < LIMIT:
        raise ValueError(f"local_expert_offset: {offset}, expected 32 bits")
    if LARGEST < abs(factor) < math.inf:
        raise ValueError(f"routed_scaling_factor: {factor}, expected a float32")
    return offset, factor


def check(tensors: Sequence[Any]) -> None:
    """Refuse tensors that are not what `run` documents.

    Args:
        tensors: those of `run`, in its order, output last.

    Raises:
        TypeError: one is no tensor or has another type.
        ValueError: one is elsewhere or has a shape that does not fit to the others'.
    """
    for name, tensor, dtype in zip(NAMES, tensors, DTYPES, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: {type(tensor).__name__}, expected a tensor")
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: {tensor.dtype}, expected {dtype}")
    logits, _, x, _, _, _, w2, _, _ = tensors
    for name, tensor, dimensions in zip(NAMES[::2], tensors[::2], (2, 2, 3, 3, 2), strict=True):
        if tensor.dim() != dimensions:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)}, expected {dimensions} dimensions"
            )
    t, h = x.shape
    e = logits.shape[1]
    local, _, i = w2.shape
    if not local:
        raise ValueError("gemm2_weights: 0 experts, expected one at least")
    for name, size in (("hidden_states", h), ("gemm2_weights", i)):
        if size < BLOCK or size % BLOCK:
            raise ValueError(f"{name}: {size} columns, expected a multiple of {BLOCK}")
    if 2 * i * h > LIMIT:
        raise ValueError(
            f"gemm1_weights: {2 * i} x {h} values of an expert, expected {LIMIT} at most"
        )
    if e < 2 * GROUPS.value or e & (e - 1):
        raise ValueError(
            f"routing_logits: {e} columns, expected a power of two from {2 * GROUPS.value} on"
        )
    shapes = (
        (t, e),
        (e,),
        (t, h),
        (h // BLOCK, t),
        (local, 2 * i, h),
        (local, 2 * i // BLOCK, h // BLOCK),
        (local, h, i),
        (local, h // BLOCK, i // BLOCK),
        (t, h),
    )
    for name, tensor, shape in zip(NAMES, tensors, shapes, strict=True):
        if tensor.device != x.device:
            raise ValueError(f"{name}: on {tensor.device}, expected {x.device}")
        if tensor.shape != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape}")


def guard(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A function that says whether tensors, as many arguments, have the shapes, strides, types and devices of `tensors`.

    It is torch.compile's own, in C++, which takes less time than reading as many attributes from Python. It also compares
    what autograd, inference mode and views that negate make of a tensor, and refuses one tensor given twice.

    Raises:
        Unsupported: this PyTorch has none, or it refuses `tensors` themselves.
    """
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    try:
        fits = guards.TensorGuards(
            *tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
        ).check
        accepted = fits(*tensors)
    except (AttributeError, TypeError) as error:
        raise Unsupported(f"tensors cannot be guarded: {error}") from error
    if not accepted:
        raise Unsupported("the guard refuses the tensors that it was made of")
    return fits
