"""Buffers that this module keeps between calls, one set per device, stream and weight shape."""

from dataclasses import dataclass, fields

import torch

from .kernels import BLOCK
from .launch import TOP_K

# The GEMM keeps one set of 128-byte tensor maps per SM here, about 70 KB on 132 SMs.
GEMM_WORKSPACE_BYTES = 128 * 1024
TOKEN_STEP = 256  # capacity grows in steps of this many tokens


@dataclass
class TokenBuffers:
    """Buffers whose size follows T. P = T * TOP_K bounds the (token, local expert) pairs."""

    local_ids: torch.Tensor  # [T, TOP_K] int32
    ranks: torch.Tensor  # [T, TOP_K] int32
    rows: torch.Tensor  # [T, TOP_K] int32
    weights: torch.Tensor  # [T, TOP_K] float32
    x: torch.Tensor  # [P, H] float8_e4m3fn
    x_scale: torch.Tensor  # [P, H / BLOCK] float32
    up_gate: torch.Tensor  # [P, 2 * I] bfloat16
    values: torch.Tensor  # [P, I] float8_e4m3fn
    packed: torch.Tensor  # [ceil(I / BLOCK / 4), P] int32
    scale: torch.Tensor  # [P, I / BLOCK] float32
    results: torch.Tensor  # [P, H] bfloat16

    @classmethod
    def allocate(cls, device: torch.device, tokens: int, hidden: int, inter: int) -> "TokenBuffers":
        """Uninitialised buffers for `tokens` tokens."""
        pairs = tokens * TOP_K

        def empty(rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(rows, cols, dtype=dtype, device=device)

        return cls(
            local_ids=empty(tokens, TOP_K, torch.int32),
            ranks=empty(tokens, TOP_K, torch.int32),
            rows=empty(tokens, TOP_K, torch.int32),
            weights=empty(tokens, TOP_K, torch.float32),
            x=empty(pairs, hidden, torch.float8_e4m3fn),
            x_scale=empty(pairs, hidden // BLOCK, torch.float32),
            up_gate=empty(pairs, 2 * inter, torch.bfloat16),
            values=empty(pairs, inter, torch.float8_e4m3fn),
            packed=empty(-(-inter // BLOCK // 4), pairs, torch.int32),
            scale=empty(pairs, inter // BLOCK, torch.float32),
            results=empty(pairs, hidden, torch.bfloat16),
        )

    def cut(self, tokens: int) -> "TokenBuffers":
        """Views of the first `tokens` tokens' share of every buffer; `packed` keeps its row length."""
        capacity = self.local_ids.shape[0]

        def share(name: str) -> torch.Tensor:
            buffer = getattr(self, name)
            return buffer if name == "packed" else buffer[: buffer.shape[0] // capacity * tokens]

        return TokenBuffers(**{field.name: share(field.name) for field in fields(self)})


class Workspace:
    """All buffers of a call. Only constants and zeroed counts carry over from call to call."""

    def __init__(self, device: torch.device, num_local: int, hidden: int, inter: int) -> None:
        self._device = device
        self._hidden = hidden
        self._inter = inter
        self._capacity = 0  # tokens
        self._whole: TokenBuffers | None = None
        self._view: TokenBuffers | None = None
        self._view_tokens = 0
        self._clean = True  # counts are zero

        def full(value: int) -> torch.Tensor:
            return torch.full((num_local,), value, dtype=torch.int64, device=device)

        def ints(*shape: int) -> torch.Tensor:
            return torch.empty(*shape, dtype=torch.int32, device=device)

        def ptrs() -> torch.Tensor:
            return torch.empty(num_local, dtype=torch.int64, device=device)

        self.counts = torch.zeros(num_local, dtype=torch.int32, device=device)
        self.sizes1 = ints(num_local, 3)  # (rows, N, K) of every expert
        self.sizes2 = ints(num_local, 3)
        self.expert_offsets = ints(num_local + 1)  # first row of every expert, then their total
        self.expert_starts = self.expert_offsets[:-1]

        # Arguments of the grouped GEMM: arrays it fills, constant strides, scratch.
        self.ptrs = (ptrs(), ptrs(), ptrs(), ptrs(), ptrs())
        self.stride_hidden = full(hidden)
        self.stride_inter = full(inter)
        self.stride_up_gate = full(2 * inter)
        self.layout_sfa = ints(num_local, 5)
        self.layout_sfb = ints(num_local, 5)
        self.gemm = torch.empty(GEMM_WORKSPACE_BYTES, dtype=torch.uint8, device=device)

    def begin(self, tokens: int) -> TokenBuffers:
        """Buffers cut for `tokens` tokens, and counts that are zero.

        The cut matters to more than bounds: the GEMM picks its tile shape by the rows of `a`.
        """
        if self._view is None or self._view_tokens != tokens:
            self._view = None
            if tokens > self._capacity:
                # The old set goes first, so that the two need not fit side by side.
                self._whole, self._capacity = None, 0
                capacity = -(-tokens // TOKEN_STEP) * TOKEN_STEP
                self._whole = TokenBuffers.allocate(
                    self._device, capacity, self._hidden, self._inter
                )
                self._capacity = capacity
            self._view = self._whole.cut(tokens)
            self._view_tokens = tokens
        if not self._clean:
            self.counts.zero_()
        self._clean = False
        return self._view

    def end(self) -> None:
        """All was launched: the last kernel leaves the counts zero. A failed call never gets here."""
        self._clean = True


_workspaces: dict[tuple[torch.device, int, int, int, int], Workspace] = {}


def get_workspace(device: torch.device, num_local: int, hidden: int, inter: int) -> Workspace:
    """The workspace of the current stream of `device`.

    One per stream: calls on one stream run in order and can share it, calls on two cannot. Calls
    from several host threads on one stream are not guarded against each other.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (device, stream, num_local, hidden, inter)
    workspace = _workspaces.get(key)
    if workspace is None:
        workspace = _workspaces[key] = Workspace(device, num_local, hidden, inter)
    return workspace
