"""Device buffers that live between calls. Their contents do not, except for counters that every call leaves at zero."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from .routing import TOP_K

SLOTS = TOP_K.value


@dataclass
class Workspace:
    """Named byte buffers of one (device, stream), grown on demand.

    A view that was handed out stays valid after its buffer has been replaced by a larger one, as long as its holder
    keeps it: a captured graph holds the views that it was captured with.
    """

    device: torch.device
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of `shape` at the start of buffer `name`, which is zero when it is new."""
        size = math.prod(shape) * dtype.itemsize
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self.buffers.pop(name, None)  # let go of the old one first
            # Only the counters need the zeros, and they are small; the rest is written before it is read.
            allocate = torch.zeros if name == "counts" else torch.empty
            buffer = allocate(size, dtype=torch.uint8, device=self.device)
            self.buffers[name] = buffer
        return buffer[:size].view(dtype).view(shape)


@dataclass(frozen=True)
class Buffers:
    """What one call writes and reads between its launches."""

    counts: torch.Tensor
    """[L] i32: pairs of each local expert; zero between calls."""
    rows: torch.Tensor
    """[L, T] i32: each expert's pairs, as token * TOP_K + slot."""
    expert: torch.Tensor
    """[T, TOP_K] i32: local expert of each slot, or -1."""
    weight: torch.Tensor
    """[T, TOP_K] f32: combine weight of each slot."""
    inter: torch.Tensor
    """[T * TOP_K, I] bf16 or f8: what GEMM1 hands to GEMM2."""
    inter_scale: torch.Tensor
    """[T * TOP_K, I / 128] f32."""
    pairs: torch.Tensor
    """[T * TOP_K, H] f32 or bf16: each pair's output."""


def buffers_for(
    workspace: Workspace,
    num_tokens: int,
    num_local: int,
    hidden: int,
    inter: int,
    quantise: bool,
    float_pairs: bool,
) -> Buffers:
    """Views into `workspace`, large enough for any routing of `num_tokens` tokens: every pair may be local."""
    get, pairs = workspace.get, num_tokens * SLOTS
    return Buffers(
        counts=get("counts", (num_local,), torch.int32),
        rows=get("rows", (num_local, num_tokens), torch.int32),
        expert=get("expert", (num_tokens, SLOTS), torch.int32),
        weight=get("weight", (num_tokens, SLOTS), torch.float32),
        inter=get("inter", (pairs, inter), torch.float8_e4m3fn if quantise else torch.bfloat16),
        inter_scale=get("inter_scale", (pairs, inter // 128), torch.float32),
        pairs=get("pairs", (pairs, hidden), torch.float32 if float_pairs else torch.bfloat16),
    )


class Workspaces:
    """One workspace per key, so that calls on different streams never share buffers."""

    def __init__(self) -> None:
        self._workspaces: dict[Hashable, Workspace] = {}

    def get(self, device: torch.device, stream: int) -> Workspace:
        return self._workspaces.setdefault((device, stream), Workspace(device))

    def drop(self, device: torch.device, stream: int) -> None:
        """Forget a workspace whose counters may not be zero, because a call failed half-way."""
        self._workspaces.pop((device, stream), None)
