"""Device buffers that live between calls, one set per device and stream; their contents do not, except for zeroed counters."""

import math
from dataclasses import dataclass

import torch

from .routing import TOP_K

SLOTS = TOP_K.value
_workspaces: dict[tuple[torch.device, int], "Workspace"] = {}


@dataclass(frozen=True)
class Buffers:
    """What one call writes and reads between its launches. P = T * TOP_K; S bounds the padded order."""

    counts: torch.Tensor
    """[L] i32: pairs of each local expert; zero between calls."""
    expert: torch.Tensor
    """[P] i32: local expert of each pair, or -1."""
    place: torch.Tensor
    """[P] i32: place among its expert's pairs."""
    weight: torch.Tensor
    """[P] f32."""
    sorted: torch.Tensor
    """[S] i32: pairs by expert, padded to whole blocks."""
    block_expert: torch.Tensor
    """[S / block_m] i32."""
    total: torch.Tensor
    """[1] i32: entries of `sorted` in use."""
    up_gate: torch.Tensor
    """[P, 2 * I] bf16."""
    activated: torch.Tensor
    """[P, I] bf16."""
    values: torch.Tensor
    """[P, I] f8."""
    scale: torch.Tensor
    """[P, I / 128] f32."""
    results: torch.Tensor
    """[P, H] bf16: weighted output of each pair."""


class Workspace:
    """Named byte buffers, grown on demand."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}

    def _get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self._buffers.pop(name, None)  # let go of the old one first
            # Only the counters need the zeros; the rest is written before it is read.
            allocate = torch.zeros if name == "counts" else torch.empty
            buffer = allocate(size, dtype=torch.uint8, device=self._device)
            self._buffers[name] = buffer
        return buffer[:size].view(dtype).view(shape)

    def buffers(
        self, num_tokens: int, num_local: int, hidden: int, inter: int, block_m: int
    ) -> Buffers:
        """Views large enough for any routing of `num_tokens` tokens."""
        get, pairs = self._get, num_tokens * SLOTS
        blocks = max_blocks(num_tokens, num_local, block_m)
        i32, bf16 = torch.int32, torch.bfloat16
        return Buffers(
            counts=get("counts", (num_local,), i32),
            expert=get("expert", (pairs,), i32),
            place=get("place", (pairs,), i32),
            weight=get("weight", (pairs,), torch.float32),
            sorted=get("sorted", (blocks * block_m,), i32),
            block_expert=get("block_expert", (blocks,), i32),
            total=get("total", (1,), i32),
            up_gate=get("up_gate", (pairs, 2 * inter), bf16),
            activated=get("activated", (pairs, inter), bf16),
            values=get("values", (pairs, inter), torch.float8_e4m3fn),
            scale=get("scale", (pairs, inter // 128), torch.float32),
            results=get("results", (pairs, hidden), bf16),
        )


def max_blocks(num_tokens: int, num_local: int, block_m: int) -> int:
    """The most blocks that any routing can need: an expert's last block may be partly empty."""
    pairs = num_tokens * min(SLOTS, num_local)
    return min(pairs, pairs // block_m + num_local)


def stream_of(device: torch.device) -> int:
    """Raw handle of the current stream; 0 on the CPU."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def get_workspace(device: torch.device) -> Workspace:
    """The workspace of the current stream: calls on one stream run in order and can share it, calls on two cannot."""
    return _workspaces.setdefault((device, stream_of(device)), Workspace(device))


def drop_workspace(device: torch.device) -> None:
    """Forget a workspace whose counters may not be zero, because a call failed half-way."""
    _workspaces.pop((device, stream_of(device)), None)
