"""The emulated sgl_kernel operations against direct formulas, and what they must refuse."""

from typing import Any

import pytest
import torch

from tests import moe_cases

emulation = moe_cases.load_file(
    moe_cases.ROOT / "harness" / "cpu_kernels" / "sgl_kernel" / "__init__.py", "sgl_kernel_emulated"
)
SENTINEL = 12345
FP8 = torch.float8_e4m3fn


def gemm_arguments(sizes: list[int], n: int = 256, k: int = 128, spare: int = 2) -> dict[str, Any]:
    """Arguments of the grouped GEMM for experts with the given numbers of rows."""
    g = torch.Generator().manual_seed(0)
    experts, rows = len(sizes), sum(sizes) + spare
    starts = [sum(sizes[:e]) for e in range(experts)]
    return dict(
        output=torch.full((rows, n), float("nan"), dtype=torch.bfloat16),
        **{
            f"{name}_ptrs": torch.empty(experts, dtype=torch.int64)
            for name in ("a", "b", "out", "a_scales", "b_scales")
        },
        a=moe_cases.fp8_normal(g, rows, k),
        b=moe_cases.fp8_normal(g, experts, n, k).transpose(1, 2),
        scales_a=torch.randn(rows, k // 128, generator=g),
        scales_b=torch.randn(experts, n // 128, k // 128, generator=g).transpose(1, 2),
        stride_a=torch.full((experts,), k),
        stride_b=torch.full((experts,), k),
        stride_c=torch.full((experts,), n),
        layout_sfa=torch.empty(experts, 5, dtype=torch.int32),
        layout_sfb=torch.empty(experts, 5, dtype=torch.int32),
        problem_sizes=torch.tensor([[m, n, k] for m in sizes], dtype=torch.int32),
        expert_offsets=torch.tensor(starts, dtype=torch.int32),
        workspace=torch.empty(90 * 1024, dtype=torch.uint8),
    )


@pytest.mark.parametrize("sizes", [[3, 0, 2], [0, 0, 0], [0, 5, 0]])
def test_grouped_gemm(sizes: list[int]) -> None:
    args = gemm_arguments(sizes, n=256, k=384)
    emulation.fp8_blockwise_scaled_grouped_mm(**args)
    row = 0
    for expert, m in enumerate(sizes):
        for _ in range(m):
            x = args["a"][row].double().view(3, 128) * args["scales_a"][row].double()[:, None]
            w = args["b"][expert].double()  # [K, N]
            scale = args["scales_b"][expert].double()  # [K / 128, N / 128]
            w = (w.view(3, 128, 2, 128) * scale[:, None, :, None]).view(384, 256)
            torch.testing.assert_close(
                args["output"][row].double(), x.view(-1) @ w, rtol=2**-7, atol=1e-2
            )
            row += 1
    assert args["output"][row:].isnan().all(), "rows of no expert were written"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("b", lambda b: b.contiguous()),
        ("scales_b", lambda s: s.contiguous()),
        ("a", lambda a: a.to(torch.bfloat16)),
        ("a", lambda a: a.t().contiguous().t()),
        ("scales_a", lambda s: torch.cat([s, s], dim=1)[:, ::2]),
        ("stride_a", lambda s: s.int()),
        ("stride_c", lambda s: s + 1),
        ("problem_sizes", lambda p: p.long()),
        ("problem_sizes", lambda p: p + torch.tensor([100, 0, 0], dtype=torch.int32)),
        ("expert_offsets", lambda o: torch.cat([o, o[-1:]])),
        ("layout_sfa", lambda x: x[:, :4]),
        ("workspace", lambda w: w[:1000]),
    ],
)
def test_grouped_gemm_refuses(name: str, wrong: Any) -> None:
    args = gemm_arguments([3, 0, 2], n=256, k=256)
    args[name] = wrong(args[name])
    with pytest.raises((ValueError, TypeError)):
        emulation.fp8_blockwise_scaled_grouped_mm(**args)


def test_prepare_moe_input() -> None:
    experts, n, k = 3, 128, 256
    ids = torch.tensor([[2, -1, 0], [7, 2, 3], [-5, -1, 2], [0, 1000, -1]], dtype=torch.int32)
    pairs = ids.numel()
    offsets = torch.empty(experts + 1, dtype=torch.int32)
    sizes1 = torch.empty(experts, 3, dtype=torch.int32)
    sizes2 = torch.empty(experts, 3, dtype=torch.int32)
    tokens = torch.full((pairs,), SENTINEL, dtype=torch.int32)
    rows = torch.full((pairs,), SENTINEL, dtype=torch.int32)
    emulation.prepare_moe_input(ids, offsets, sizes1, sizes2, tokens, rows, experts, n, k)
    assert offsets.tolist() == [0, 2, 2, 5]
    assert sizes1.tolist() == [[2, 256, 256], [0, 256, 256], [3, 256, 256]]
    assert sizes2.tolist() == [[2, 256, 128], [0, 256, 128], [3, 256, 128]]
    assert tokens[5:].eq(SENTINEL).all()
    for pair, expert in enumerate(ids.flatten().tolist()):
        row = int(rows[pair])
        if 0 <= expert < experts:
            assert offsets[expert] <= row < offsets[expert + 1], (pair, row)
            assert tokens[row] == pair // 3, (pair, row)
        else:
            assert row == SENTINEL, pair
    with pytest.raises(TypeError):
        emulation.prepare_moe_input(ids.long(), offsets, sizes1, sizes2, tokens, rows, 3, n, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8])
def test_shuffle_rows(dtype: torch.dtype) -> None:
    x = torch.randn(5, 16).to(dtype)
    order = torch.tensor([4, 0, 0, 3, 1, 2], dtype=torch.int32)
    out = emulation.shuffle_rows(x, order, (4, 16))
    assert out.dtype == dtype
    assert out.float().equal(x.float()[order[:4].long()])
    with pytest.raises(ValueError, match="outside"):
        emulation.shuffle_rows(x, order + 1, (4, 16))
    with pytest.raises(ValueError, match="multiple of 16"):
        emulation.shuffle_rows(torch.randn(5, 6), order, (4, 6))
    with pytest.raises(ValueError, match="strided"):
        emulation.shuffle_rows(torch.randn(16, 5).t(), order, (4, 16))


def test_silu_and_mul_has_its_gate_first() -> None:
    x = (torch.randn(3, 64) * 100).bfloat16()
    out = emulation.silu_and_mul(x)
    expected = torch.nn.functional.silu(x[:, :32].double()) * x[:, 32:].double()
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-30)
    given = torch.empty(3, 32, dtype=torch.bfloat16)
    assert emulation.silu_and_mul(x, given) is given and given.equal(out)


def test_group_quantisation() -> None:
    x = (torch.randn(6, 256) * 50).bfloat16()
    x[0, :128] = 0
    values = torch.empty(6, 256, dtype=FP8)
    scale = torch.empty(6, 2)
    emulation.sgl_per_token_group_quant_8bit(x, values, scale, 128, 1e-10, -448.0, 448.0)
    amax = x.float().view(6, 2, 128).abs().amax(-1)
    torch.testing.assert_close(scale, amax.clamp(min=1e-10) / 448)
    back = values.float().view(6, 2, 128) * scale[:, :, None]
    # Half a step of a 3-bit mantissa, and of the subnormals' spacing 2**-9.
    bound = (x.float().view(6, 2, 128).abs() / 16).maximum(scale[:, :, None] * 2**-10) * 1.001
    assert ((back - x.float().view(6, 2, 128)).abs() <= bound).all()
    assert values[0, :128].float().eq(0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 1e-6},
        {"fp8_max": 447.0},
        {"group_size": 96},
        {"output_s": torch.empty(2, 6).t()},
        {"input": torch.randn(6, 512).bfloat16()[:, ::2]},
        {"input": torch.randn(6, 256)},
    ],
)
def test_group_quantisation_refuses(change: dict[str, Any]) -> None:
    args: dict[str, Any] = dict(
        input=torch.randn(6, 256).bfloat16(),
        output_q=torch.empty(6, 256, dtype=FP8),
        output_s=torch.empty(6, 2),
        group_size=128,
        eps=1e-10,
        fp8_min=-448.0,
        fp8_max=448.0,
    )
    args.update(change)
    with pytest.raises((ValueError, TypeError)):
        emulation.sgl_per_token_group_quant_8bit(**args)


def fused_arguments(experts: int, rows: int, cols: int, spare: int = 0) -> dict[str, Any]:
    """Arguments of the fused form with a leading dimension of experts, outputs full of sentinels."""
    words = -(-cols // 128 // 4)
    g = torch.Generator().manual_seed(0)
    return dict(
        input=(torch.randn(experts, rows, 2 * cols, generator=g) * 50).bfloat16(),
        output_q=torch.full((experts, rows, cols), float("nan"), dtype=torch.bfloat16).to(FP8),
        output_s=torch.full((experts, words, rows + spare), SENTINEL, dtype=torch.int32).mT,
        group_size=128,
        eps=1e-10,
        fp8_min=-448.0,
        fp8_max=448.0,
        scale_ue8m0=True,
        fuse_silu_and_mul=True,
    )


def check_fused(args: dict[str, Any], expert: int, count: int) -> None:
    """The first `count` rows of one expert against the formulas, and the rest against the sentinels."""
    cols = args["output_q"].shape[-1]
    x = args["input"][expert, :count].double()
    gate = torch.nn.functional.silu(x[:, :cols])
    exact = (gate * x[:, cols:]).view(count, cols // 128, 128)
    words = args["output_s"][expert]
    exponents = words.flatten().view(torch.uint8).view(len(words), -1)[:count, : cols // 128]
    exponents = exponents.int() - 127
    scale = torch.ldexp(torch.ones(exponents.shape, dtype=torch.float64), exponents)
    wanted = exact.abs().amax(-1).clamp(min=1e-10) / 448
    # The smallest power of two that is not below, give or take the rounding to bfloat16.
    assert ((scale >= wanted * 0.99) & (scale < wanted * 2.02)).all()
    back = (
        args["output_q"][expert, :count].double().view(count, cols // 128, 128) * scale[:, :, None]
    )
    bound = (exact.abs() / 14).maximum(scale[:, :, None] * 2**-9)
    assert ((back - exact).abs() <= bound).all()
    assert args["output_q"][expert, count:].float().isnan().all(), (
        "rows past the count were written"
    )
    assert words[count:].eq(SENTINEL).all(), "scales past the count were written"


@pytest.mark.parametrize("cols", [256, 640, 2048])
def test_fused_swiglu_and_quantisation(cols: int) -> None:
    """Numbers of scales that fill their words and that do not."""
    args = fused_arguments(1, 5, cols, spare=3)
    args["input"][0, 0, :128] = 0
    flat = {k: v[0] if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    emulation.sgl_per_token_group_quant_8bit(**flat)
    check_fused(args, 0, 5)
    assert args["output_q"][0, 0, :128].float().eq(0).all()


def test_fused_quantisation_of_counted_rows() -> None:
    args = fused_arguments(3, 4, 2048)
    counts = torch.tensor([4, 0, 2], dtype=torch.int32)
    emulation.sgl_per_token_group_quant_8bit(**args, masked_m=counts)
    for expert, count in enumerate(counts.tolist()):
        check_fused(args, expert, count)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (NotImplementedError, {"scale_ue8m0": False}),  # the real operation would ignore the fusion
        (NotImplementedError, {"fuse_silu_and_mul": False}),
        (TypeError, {"output_s": torch.empty(1, 4, 16)}),
        (ValueError, {"output_s": torch.empty(1, 4, 4, dtype=torch.int32)}),  # row-major
        (ValueError, {"output_s": torch.empty(1, 4, 3, dtype=torch.int32).mT}),  # too few rows
        (ValueError, {"masked_m": torch.tensor([5], dtype=torch.int32)}),
        (TypeError, {"masked_m": torch.tensor([4])}),
    ],
)
def test_fused_quantisation_refuses(error: type[Exception], change: dict[str, Any]) -> None:
    args = fused_arguments(1, 4, 2048)
    args["masked_m"] = torch.tensor([4], dtype=torch.int32)
    args.update(change)
    with pytest.raises(error):
        emulation.sgl_per_token_group_quant_8bit(**args)


def test_counted_rows_want_sixteen_scales() -> None:
    args = fused_arguments(1, 4, 256)
    with pytest.raises(ValueError, match="multiple of 16"):
        emulation.sgl_per_token_group_quant_8bit(
            **args, masked_m=torch.tensor([4], dtype=torch.int32)
        )
