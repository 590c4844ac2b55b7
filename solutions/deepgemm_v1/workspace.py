"""Device buffers that live between calls, one set per device and stream; their contents do not, except for zeroed counters."""

import math
from dataclasses import dataclass

import torch

from .layouts import SLOTS, Layout

_workspaces: dict[tuple[torch.device, int], "Workspace"] = {}


@dataclass(frozen=True)
class Buffers:
    """What one call writes and reads between its launches. P = T * 8 pairs; R rows bound what any routing needs."""

    counts: torch.Tensor
    """[L] i32: pairs of each local expert; zero between calls."""
    expert: torch.Tensor
    """[P] i32: local expert of each pair, or -1."""
    place: torch.Tensor
    """[P] i32: place among its expert's pairs."""
    weight: torch.Tensor
    """[P] f32."""
    row: torch.Tensor
    """[P] i32: row of each local pair."""
    ends: torch.Tensor
    """[L] i32: the row after each expert's last pair."""
    a: torch.Tensor
    """[R, H] f8."""
    a_scale: torch.Tensor
    """[H / 128, R] f32; [L, H / 128, R / L] if masked."""
    up_gate: torch.Tensor
    """[R, 2 * I] bf16."""
    values: torch.Tensor
    """[R, I] f8."""
    scale: torch.Tensor
    """[I / 128, R] f32; [L, I / 128, R / L] if masked."""
    results: torch.Tensor
    """[R, H] bf16."""


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
            # Only the counters need the zeros; the rest is written before it is read, or read and not used.
            allocate = torch.zeros if name == "counts" else torch.empty
            buffer = allocate(size, dtype=torch.uint8, device=self._device)
            self._buffers[name] = buffer
        return buffer[:size].view(dtype).view(shape)

    def buffers(
        self, num_tokens: int, num_local: int, hidden: int, inter: int, layout: Layout
    ) -> Buffers:
        """Views large enough for any routing of `num_tokens` tokens."""
        get, pairs, rows = self._get, num_tokens * SLOTS, layout.rows(num_tokens, num_local)
        i32, f32, f8, bf16 = torch.int32, torch.float32, torch.float8_e4m3fn, torch.bfloat16

        def scales(columns: int) -> tuple[int, ...]:
            blocks = columns // 128
            if layout.masked:
                return (num_local, blocks, rows // num_local)
            return (blocks, rows)

        return Buffers(
            counts=get("counts", (num_local,), i32),
            expert=get("expert", (pairs,), i32),
            place=get("place", (pairs,), i32),
            weight=get("weight", (pairs,), f32),
            row=get("row", (pairs,), i32),
            ends=get("ends", (num_local,), i32),
            a=get("a", (rows, hidden), f8),
            a_scale=get("a_scale", scales(hidden), f32),
            up_gate=get("up_gate", (rows, 2 * inter), bf16),
            values=get("values", (rows, inter), f8),
            scale=get("scale", scales(inter), f32),
            results=get("results", (rows, hidden), bf16),
        )


def stream_of(device: torch.device) -> int:
    """Raw handle of the current stream; 0 on the CPU."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def get_workspace(device: torch.device) -> Workspace:
    """The workspace of the current stream: calls on one stream run in order and can share it, calls on two cannot."""
    return _workspaces.setdefault((device, stream_of(device)), Workspace(device))


def drop_workspace(device: torch.device) -> None:
    """Forget a workspace whose counters may not be zero, because a call failed half-way."""
    _workspaces.pop((device, stream_of(device)), None)
