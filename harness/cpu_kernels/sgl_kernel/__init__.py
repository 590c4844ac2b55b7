"""Plain-PyTorch emulation of the sgl_kernel operations that the solutions use.

The CPU backend puts the folder above this package on PYTHONPATH, so that `import sgl_kernel` finds
it where the real package is not installed. Nothing else may: it is slow and proves nothing about
speed.

Emulated is the interface of sglang-kernel 0.4.3 on sm_90: signatures, in-place results, which
entries and rows are left untouched, and the rounding of results (bfloat16 or FP8 after float32
arithmetic). The real operations read raw pointers and check little. Where they would read or write
out of bounds, or take a strided tensor for a dense one, these raise ValueError or TypeError, so
that a solution which runs here hands the real ones what they assume. What differs: float32 sums are
taken in another order, and the order of the rows of one expert is this module's own (the real order
depends on atomics).

Every operation takes tensors of any device, so that `tests/gpu` can compare it with the real one.
"""

import torch

__version__ = "0.4.3+emulated"

BLOCK = 128
FP8_MAX = 448.0
MIN_AMAX = 1e-10
MASKED_GROUPS = 16
VECTOR_BYTES = 16
# Tensor maps of 132 SMs, 128 bytes each: two for the operands, two for the output's warp groups.
MIN_WORKSPACE_BYTES = 4 * 132 * 128


def fp8_blockwise_scaled_grouped_mm(
    output: torch.Tensor,
    a_ptrs: torch.Tensor,
    b_ptrs: torch.Tensor,
    out_ptrs: torch.Tensor,
    a_scales_ptrs: torch.Tensor,
    b_scales_ptrs: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    stride_a: torch.Tensor,
    stride_b: torch.Tensor,
    stride_c: torch.Tensor,
    layout_sfa: torch.Tensor,
    layout_sfb: torch.Tensor,
    problem_sizes: torch.Tensor,
    expert_offsets: torch.Tensor,
    workspace: torch.Tensor,
) -> None:
    """One FP8 matrix product per expert, scaled by 1 x 128 (a) and 128 x 128 (b) blocks.

    Args:
        output: [P, N] bfloat16 or float16; rows of no expert are left untouched.
        a_ptrs, b_ptrs, out_ptrs, a_scales_ptrs, b_scales_ptrs: [L] int64 scratch.
        a: [P, K] float8_e4m3fn, contiguous.
        b: [L, K, N] float8_e4m3fn, a transposed view of contiguous [L, N, K].
        scales_a: [P, K / 128] float32, contiguous.
        scales_b: [L, K / 128, N / 128] float32, a transposed view of contiguous storage.
        stride_a, stride_b: [L] int64, all K.
        stride_c: [L] int64, all N.
        layout_sfa, layout_sfb: [L, 5] int32 scratch.
        problem_sizes: [L, 3] int32: (rows, N, K) of every expert; no rows is allowed.
        expert_offsets: [L] int32: first row of every expert.
        workspace: uint8 scratch.
    """
    num_experts = expert_offsets.shape[0] if expert_offsets.dim() == 1 else -1
    _expect("output", output, (torch.bfloat16, torch.float16), dims=2)
    _expect("a", a, (torch.float8_e4m3fn,), dims=2)
    _expect("scales_a", scales_a, (torch.float32,), dims=2)
    _expect("problem_sizes", problem_sizes, (torch.int32,), shape=(num_experts, 3))
    _expect("expert_offsets", expert_offsets, (torch.int32,), dims=1)
    for name, strides in (("stride_a", stride_a), ("stride_b", stride_b), ("stride_c", stride_c)):
        _expect(name, strides, (torch.int64,), shape=(num_experts,))
    for name, ptrs in (
        ("a_ptrs", a_ptrs),
        ("b_ptrs", b_ptrs),
        ("out_ptrs", out_ptrs),
        ("a_scales_ptrs", a_scales_ptrs),
        ("b_scales_ptrs", b_scales_ptrs),
    ):
        _expect(name, ptrs, (torch.int64,), shape=(num_experts,))
    for name, layout in (("layout_sfa", layout_sfa), ("layout_sfb", layout_sfb)):
        _expect(name, layout, (torch.int32,), shape=(num_experts, 5))
    _expect("workspace", workspace, (torch.uint8,), dims=1)
    if workspace.numel() < MIN_WORKSPACE_BYTES:
        raise ValueError(f"workspace has {workspace.numel()} bytes, under {MIN_WORKSPACE_BYTES}")
    if b.dim() != 3 or scales_b.dim() != 3:
        raise ValueError(f"b and scales_b must be 3D, not {b.dim()}D and {scales_b.dim()}D")
    weights, weight_scales = b.transpose(1, 2), scales_b.transpose(1, 2)
    rows, k = a.shape
    n = output.shape[1]
    if n % BLOCK or k % BLOCK:
        raise ValueError(f"N and K must be multiples of {BLOCK}, not {n} and {k}")
    _expect("b transposed", weights, (torch.float8_e4m3fn,), shape=(num_experts, n, k))
    scale_shape = (num_experts, n // BLOCK, k // BLOCK)
    _expect("scales_b transposed", weight_scales, (torch.float32,), shape=scale_shape)
    if output.shape[0] != rows or tuple(scales_a.shape) != (rows, k // BLOCK):
        raise ValueError(
            f"a {tuple(a.shape)}, scales_a {tuple(scales_a.shape)} and output "
            f"{tuple(output.shape)} do not fit each other"
        )
    for name, tensor in (("a", a), ("b", b), ("output", output)):
        _expect_aligned(name, tensor)

    for expert in range(num_experts):
        m, problem_n, problem_k = problem_sizes[expert].tolist()
        strides = int(stride_a[expert]), int(stride_b[expert]), int(stride_c[expert])
        if (problem_n, problem_k) != (n, k) or strides != (k, k, n):
            raise ValueError(
                f"expert {expert}: problem (N, K) {(problem_n, problem_k)} and strides {strides} "
                f"do not describe N {n}, K {k}"
            )
        first = int(expert_offsets[expert])
        if m < 0 or first < 0 or first + m > rows:
            raise ValueError(f"expert {expert}: rows {first} to {first + m} are not in 0 to {rows}")
        if m == 0:
            continue
        own = slice(first, first + m)
        x = a[own].float() * scales_a[own].repeat_interleave(BLOCK, dim=1)  # [m, K]
        w_scale = weight_scales[expert]
        w_scale = w_scale.repeat_interleave(BLOCK, dim=0).repeat_interleave(BLOCK, dim=1)
        w = weights[expert].float() * w_scale  # [N, K]
        output[own] = (x @ w.t()).to(output.dtype)


def prepare_moe_input(
    topk_ids: torch.Tensor,
    expert_offsets: torch.Tensor,
    problem_sizes1: torch.Tensor,
    problem_sizes2: torch.Tensor,
    input_permutation: torch.Tensor,
    output_permutation: torch.Tensor,
    num_experts: int,
    n: int,
    k: int,
    blockscale_offsets: torch.Tensor | None = None,
) -> None:
    """Sort (token, slot) pairs by expert. Pairs whose id is not in [0, num_experts) take no part.

    Args:
        topk_ids: [T, top_k] int32.
        expert_offsets: [num_experts + 1] int32, written.
        problem_sizes1: [num_experts, 3] int32, written: (rows, 2 * n, k).
        problem_sizes2: [num_experts, 3] int32, written: (rows, k, n).
        input_permutation: [T * top_k] int32: token of every sorted row; entries past the last row
            are left untouched.
        output_permutation: [T * top_k] int32: sorted row of every pair; entries of pairs that take
            no part are left untouched.
        num_experts: local experts.
        n: intermediate size.
        k: hidden size.
        blockscale_offsets: not emulated.
    """
    if blockscale_offsets is not None:
        raise NotImplementedError("blockscale_offsets is not emulated")
    _expect("topk_ids", topk_ids, (torch.int32,), dims=2)
    num_pairs, top_k = topk_ids.numel(), topk_ids.shape[1]
    int32 = (torch.int32,)
    _expect("expert_offsets", expert_offsets, int32, shape=(num_experts + 1,))
    _expect("problem_sizes1", problem_sizes1, int32, shape=(num_experts, 3))
    _expect("problem_sizes2", problem_sizes2, int32, shape=(num_experts, 3))
    _expect("input_permutation", input_permutation, int32, shape=(num_pairs,))
    _expect("output_permutation", output_permutation, int32, shape=(num_pairs,))

    flat = topk_ids.flatten()
    first = 0
    for expert in range(num_experts):
        expert_offsets[expert] = first
        # Not in ascending order on purpose: the real order is arbitrary.
        pairs = torch.nonzero(flat == expert).flatten().flip(0)
        count = pairs.numel()
        problem_sizes1[expert] = torch.tensor([count, 2 * n, k], dtype=torch.int32)
        problem_sizes2[expert] = torch.tensor([count, k, n], dtype=torch.int32)
        own = torch.arange(first, first + count, dtype=torch.int32, device=flat.device)
        input_permutation[first : first + count] = (pairs // top_k).to(torch.int32)
        output_permutation[pairs] = own
        first += count
    expert_offsets[num_experts] = first


def shuffle_rows(
    input_tensor: torch.Tensor, dst2src_map: torch.Tensor, output_tensor_shape: tuple[int, int]
) -> torch.Tensor:
    """Row i of the result is row `dst2src_map[i]` of the input.

    Args:
        input_tensor: [rows, cols] bfloat16, float16, float32, float8_e4m3fn or uint8, contiguous.
        dst2src_map: int32, at least as many entries as the result has rows.
        output_tensor_shape: [result rows, cols].

    Returns:
        a new tensor.
    """
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.uint8)
    _expect("input_tensor", input_tensor, dtypes, dims=2)
    _expect("dst2src_map", dst2src_map, (torch.int32,), dims=1)
    rows, cols = output_tensor_shape
    if cols != input_tensor.shape[1] or dst2src_map.numel() < rows:
        raise ValueError(
            f"output shape {tuple(output_tensor_shape)} does not fit input "
            f"{tuple(input_tensor.shape)} and {dst2src_map.numel()} map entries"
        )
    if cols * input_tensor.element_size() % VECTOR_BYTES:
        # The real kernel drops the tail of a row that is no whole number of vectors.
        raise ValueError(
            f"a row has {cols * input_tensor.element_size()} bytes, not a multiple of 16"
        )
    _expect_aligned("input_tensor", input_tensor)
    source = dst2src_map[:rows].long()
    if rows and not bool(((source >= 0) & (source < input_tensor.shape[0])).all()):
        raise ValueError(f"dst2src_map has entries outside 0 to {input_tensor.shape[0] - 1}")
    # FP8 has no index_select, bytes have.
    return input_tensor.view(torch.uint8)[source].view(input_tensor.dtype)


def silu_and_mul(input: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """silu(first half) * second half in float32, rounded once.

    Args:
        input: [..., 2 * d] bfloat16, float16 or float32, contiguous.
        out: [..., d], written; a new tensor if None.

    Returns:
        `out`.
    """
    _expect("input", input, (torch.bfloat16, torch.float16, torch.float32))
    half = input.shape[-1] // 2
    if half * input.element_size() % VECTOR_BYTES:
        raise ValueError(
            f"half a row has {half * input.element_size()} bytes, not a multiple of 16"
        )
    if out is None:
        out = torch.empty((*input.shape[:-1], half), dtype=input.dtype, device=input.device)
    _expect("out", out, (input.dtype,), shape=(*tuple(input.shape[:-1]), half))
    _expect_aligned("input", input)
    gate, up = input[..., :half].float(), input[..., half:].float()
    out.copy_(gate / (1.0 + torch.exp(-gate)) * up)
    return out


def sgl_per_token_group_quant_8bit(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool = False,
    fuse_silu_and_mul: bool = False,
    masked_m: torch.Tensor | None = None,
    enable_v2: bool | None = None,
) -> None:
    """FP8 with one scale per row and group, of the input or of a SwiGLU of it.

    Emulated are the two ways in which the solutions call it. Plain: scale = amax / 448, values = input * (448 / amax). Fused:
    x = silu(first half) * second half, both factors and the product rounded to the input's type; scale = the smallest power of
    two that is at least amax / 448, stored as its biased exponent. The real operation fuses only with packed exponents: with
    float32 scales it ignores `fuse_silu_and_mul`, which is an error here.

    Args:
        input: [rows, cols] bfloat16 or float16, contiguous, not empty; [rows, 2 * cols] if fused, and [experts, rows,
            2 * cols] with `masked_m`.
        output_q: [rows, cols] float8_e4m3fn, written; [experts, rows, cols] with `masked_m`.
        output_s: plain: [rows, cols / group_size] float32, contiguous (row-major), written. Fused: int32 of four exponents
            each, [at least rows, ceil(cols / group_size / 4)] with the rows next to each other, written; a leading dimension of
            experts with `masked_m`.
        group_size: 16, 32, 64 or 128; these select the operation's second version.
        eps: lower bound of amax; the second version accepts 1e-10 only.
        fp8_min, fp8_max: -448, 448.
        scale_ue8m0, fuse_silu_and_mul: both or none.
        masked_m: fused only: [experts] int32, rows of each expert; the rest of its rows is left untouched.
        enable_v2: must not be False: the first version is not emulated.
    """
    if scale_ue8m0 != fuse_silu_and_mul or enable_v2 is False:
        raise NotImplementedError("only plain and fused with packed scales are emulated")
    if masked_m is not None and not fuse_silu_and_mul:
        raise ValueError("masked_m without fuse_silu_and_mul: the real operation ignores it")
    if group_size not in (16, 32, 64, 128):
        raise ValueError(f"unsupported group_size {group_size}")
    if abs(eps - MIN_AMAX) >= 1e-13 or (fp8_min, fp8_max) != (-FP8_MAX, FP8_MAX):
        raise ValueError(f"eps {eps}, range [{fp8_min}, {fp8_max}]: want 1e-10 and [-448, 448]")
    if fuse_silu_and_mul:
        _swiglu_quant(input, output_q, output_s, group_size, masked_m)
        return
    _expect("input", input, (torch.bfloat16, torch.float16), dims=2)
    rows, cols = input.shape
    if input.numel() == 0 or cols % group_size:
        raise ValueError(f"input {tuple(input.shape)} is empty or not made of {group_size}-groups")
    _expect("output_q", output_q, (torch.float8_e4m3fn,), shape=(rows, cols))
    _expect("output_s", output_s, (torch.float32,), shape=(rows, cols // group_size))
    _expect_aligned("input", input)
    groups = input.float().view(rows, cols // group_size, group_size)
    amax = groups.abs().amax(dim=-1).clamp(min=MIN_AMAX)
    output_s.copy_(amax * (1.0 / FP8_MAX))
    values = (groups * (FP8_MAX / amax)[:, :, None]).clamp(-FP8_MAX, FP8_MAX)
    output_q.copy_(values.to(torch.float8_e4m3fn).view(rows, cols))


def _swiglu_quant(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    masked_m: torch.Tensor | None,
) -> None:
    """The fused form of `sgl_per_token_group_quant_8bit`, shapes as there."""
    dims = 2 if masked_m is None else 3
    _expect("input", input, (torch.bfloat16, torch.float16), dims=dims)
    *experts, rows, cols = (*input.shape[:-1], input.shape[-1] // 2)
    num_groups = cols // group_size
    if input.numel() == 0 or input.shape[-1] % (2 * group_size):
        raise ValueError(f"input {tuple(input.shape)} is empty or not made of {group_size}-groups")
    _expect("output_q", output_q, (torch.float8_e4m3fn,), shape=(*experts, rows, cols))
    _expect_aligned("input", input)
    words = -(-num_groups // 4)
    if output_s.dtype != torch.int32:
        raise TypeError(f"output_s is {output_s.dtype}, want packed exponents as torch.int32")
    if output_s.dim() != dims or [*output_s.shape[:-2], output_s.shape[-1]] != [*experts, words]:
        raise ValueError(
            f"output_s has shape {tuple(output_s.shape)}, {rows} rows want {words} words"
        )
    if output_s.shape[-2] < rows or output_s.stride(-2) != 1 or output_s.stride(-1) < rows:
        raise ValueError(
            f"output_s is strided {output_s.stride()}: rows must be next to each other"
        )
    counts = [rows]
    if masked_m is not None:
        _expect("masked_m", masked_m, (torch.int32,), shape=tuple(experts))
        if num_groups % MASKED_GROUPS:
            raise ValueError(f"{num_groups} groups a row, masked_m wants a multiple of 16")
        counts = masked_m.tolist()
        if not all(0 <= count <= rows for count in counts):
            raise ValueError(f"masked_m {counts} has entries outside 0 to {rows}")
    for expert, count in enumerate(counts):
        x, q, s = (t[expert] if dims == 3 else t for t in (input, output_q, output_s))
        gate, up = x[:count, :cols].float(), x[:count, cols:]
        gate = (gate / (1.0 + torch.exp(-gate))).to(x.dtype)
        groups = (gate * up).float().view(count, num_groups, group_size)
        amax = groups.abs().amax(dim=-1).clamp(min=MIN_AMAX)
        mantissa, exponent = torch.frexp(amax * (1.0 / FP8_MAX))  # mantissa in [0.5, 1)
        exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
        values = torch.ldexp(groups, -exponent[:, :, None]).clamp(-FP8_MAX, FP8_MAX)
        q[:count] = values.to(torch.float8_e4m3fn).view(count, cols)
        shifts = 8 * (torch.arange(num_groups, device=x.device) % 4)
        packed = torch.zeros(count, words, dtype=torch.int64, device=x.device)
        word = (torch.arange(num_groups, device=x.device) // 4).expand(count, -1)
        packed.scatter_add_(1, word, (exponent + 127).long() << shifts)
        s[:count] = torch.where(packed < 2**31, packed, packed - 2**32).to(torch.int32)


def _expect(
    name: str,
    tensor: torch.Tensor,
    dtypes: tuple[torch.dtype, ...],
    *,
    dims: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Raise unless `tensor` is dense and has one of `dtypes` and the given rank or shape."""
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} is {tensor.dtype}, want one of {dtypes}")
    if dims is not None and tensor.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, want {dims} dimensions")
    if shape is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, want {shape}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is strided {tensor.stride()}, shape {tuple(tensor.shape)}")


def _expect_aligned(name: str, tensor: torch.Tensor) -> None:
    """Raise unless `tensor` starts at a multiple of the vector width."""
    if tensor.data_ptr() % VECTOR_BYTES:
        raise ValueError(f"{name} does not start at a multiple of {VECTOR_BYTES} bytes")
