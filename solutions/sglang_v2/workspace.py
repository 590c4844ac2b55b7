"""What this module keeps between calls: small arrays whose size depends on the weights' shape alone."""

from dataclasses import dataclass

import torch

# The GEMM keeps one set of 128-byte tensor maps per SM here, about 70 KB on 132 SMs.
WORKSPACE_BYTES = 90 * 1024


@dataclass
class Workspace:
    """Arrays for L experts; strides are constants, all else is rewritten by every call."""

    a_ptrs: torch.Tensor  # each [L] int64
    b_ptrs: torch.Tensor
    out_ptrs: torch.Tensor
    a_scale_ptrs: torch.Tensor
    b_scale_ptrs: torch.Tensor
    layout_sfa: torch.Tensor  # [L, 5] int32: CUTLASS layouts of the scales
    layout_sfb: torch.Tensor
    gemm: torch.Tensor  # [WORKSPACE_BYTES] uint8
    sizes1: torch.Tensor  # [L, 3] int32: (rows, N, K) of every expert in GEMM1
    sizes2: torch.Tensor
    expert_offsets: torch.Tensor  # [L + 1] int32: first row of every expert, then their total
    expert_starts: torch.Tensor  # [L] view of expert_offsets
    stride_hidden: torch.Tensor  # [L] int64, all H
    stride_inter: torch.Tensor  # [L] int64, all I
    stride_up_gate: torch.Tensor  # [L] int64, all 2 * I

    @classmethod
    def allocate(cls, device: torch.device, num_local: int, hidden: int, inter: int) -> "Workspace":
        """A new workspace on `device`."""

        def ptrs() -> torch.Tensor:
            return torch.empty(num_local, dtype=torch.int64, device=device)

        def ints(*shape: int) -> torch.Tensor:
            return torch.empty(*shape, dtype=torch.int32, device=device)

        def stride(value: int) -> torch.Tensor:
            return torch.full((num_local,), value, dtype=torch.int64, device=device)

        expert_offsets = ints(num_local + 1)
        return cls(
            a_ptrs=ptrs(),
            b_ptrs=ptrs(),
            out_ptrs=ptrs(),
            a_scale_ptrs=ptrs(),
            b_scale_ptrs=ptrs(),
            layout_sfa=ints(num_local, 5),
            layout_sfb=ints(num_local, 5),
            gemm=torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device),
            sizes1=ints(num_local, 3),
            sizes2=ints(num_local, 3),
            expert_offsets=expert_offsets,
            expert_starts=expert_offsets[:-1],
            stride_hidden=stride(hidden),
            stride_inter=stride(inter),
            stride_up_gate=stride(2 * inter),
        )


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
        workspace = _workspaces[key] = Workspace.allocate(device, num_local, hidden, inter)
    return workspace
