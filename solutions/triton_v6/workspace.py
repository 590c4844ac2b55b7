"""Device buffers that live between calls. Their contents do not, except for counters that every call leaves at zero."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from .routing import TOP_K
from .tiles import Tiles

SLOTS = TOP_K.value
COUNTERS = ("counts", "arrived")
MOST_PLANS = 1024  # of a workspace; each has some 12 KB


def row_blocks(num_tokens: int, num_local: int, block_n: int) -> int:
    """The most row blocks that any routing can need: an expert's last block may be partly empty."""
    pairs = num_tokens * min(SLOTS, num_local)
    return min(pairs, pairs // block_n + num_local)


class Workspace:
    """Named byte buffers of one (device, stream), grown on demand, and the plans that hold addresses in them."""

    def __init__(self, device: torch.device) -> None:
        self.plans: dict[Hashable, object] = {}
        """What callers derived from the buffers' addresses; emptied when a buffer moves."""
        self._device = device
        self.buffers: dict[str, torch.Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of `shape` at the start of buffer `name`, which is zero when it is new."""
        size = math.prod(shape) * dtype.itemsize
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self.plans.clear()
            self.buffers.pop(name, None)  # let go of the old one first
            # Only the counters need the zeros, and they are small; the rest is written before it is read.
            allocate = torch.zeros if name in COUNTERS else torch.empty
            buffer = allocate(size, dtype=torch.uint8, device=self._device)
            self.buffers[name] = buffer
        return buffer[:size].view(dtype).view(shape)

    def keep(self, key: Hashable, plan: object) -> None:
        """Keep a plan, and let the oldest go when there are too many."""
        if len(self.plans) >= MOST_PLANS and key not in self.plans:
            del self.plans[next(iter(self.plans))]
        self.plans[key] = plan


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
    """[T * TOP_K, I] f8: what GEMM1 hands to GEMM2."""
    inter_scale: torch.Tensor
    """[T * TOP_K, I / 128] f32."""
    staged: torch.Tensor
    """[T * TOP_K, I] bf16: narrow tiles of the intermediate; empty if GEMM1's tiles have 128 columns."""
    arrived: torch.Tensor
    """[row blocks, I / 128] i32: tiles staged of each 128 columns; zero between calls; empty like `staged`."""
    pairs: torch.Tensor
    """[T * TOP_K, H] f32 or bf16: each pair's output."""


def buffers_for(
    workspace: Workspace, num_tokens: int, num_local: int, hidden: int, inter: int, tiles: Tiles
) -> Buffers:
    """Views into `workspace`, large enough for any routing of `num_tokens` tokens: every pair may be local."""
    get, pairs = workspace.get, num_tokens * SLOTS
    narrow = tiles.gemm1.block_m < 128
    blocks = row_blocks(num_tokens, num_local, tiles.gemm1.block_n)
    return Buffers(
        counts=get("counts", (num_local,), torch.int32),
        rows=get("rows", (num_local, num_tokens), torch.int32),
        expert=get("expert", (num_tokens, SLOTS), torch.int32),
        weight=get("weight", (num_tokens, SLOTS), torch.float32),
        inter=get("inter", (pairs, inter), torch.float8_e4m3fn),
        inter_scale=get("inter_scale", (pairs, inter // 128), torch.float32),
        staged=get("staged", (pairs if narrow else 0, inter), torch.bfloat16),
        arrived=get("arrived", (blocks if narrow else 0, inter // 128), torch.int32),
        pairs=get("pairs", (pairs, hidden), torch.float32 if tiles.float_pairs else torch.bfloat16),
    )


class Workspaces:
    """One workspace per device and stream, so that calls on different streams never share buffers."""

    def __init__(self) -> None:
        self._workspaces: dict[tuple[int, int], Workspace] = {}

    def get(self, device: int, stream: int) -> Workspace:
        """The workspace of a device's index, -1 for the CPU, and a stream's raw handle."""
        workspace = self._workspaces.get((device, stream))
        if workspace is None:
            where = torch.device("cuda", device) if device >= 0 else torch.device("cpu")
            workspace = self._workspaces[device, stream] = Workspace(where)
        return workspace

    def drop(self, device: int, stream: int) -> None:
        """Forget a workspace whose counters may not be zero, because a call failed half-way."""
        self._workspaces.pop((device, stream), None)
