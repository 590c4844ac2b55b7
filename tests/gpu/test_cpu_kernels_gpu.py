"""The emulated operations of sgl_kernel beside the real ones.

Run with `pytest -m gpu tests/gpu`; needs sgl_kernel.
"""

from types import ModuleType
from typing import Any

import pytest
import torch

from harness.environment import visible_gpus
from tests import moe_cases
from tests.gpu.test_variants_gpu import HIDDEN, INTER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="needs a GPU"),
]
FP8 = torch.float8_e4m3fn
SENTINEL = -12345


@pytest.fixture(scope="module")
def real() -> ModuleType:
    return pytest.importorskip("sgl_kernel")


@pytest.fixture(scope="module")
def emulation() -> ModuleType:
    path = moe_cases.ROOT / "harness" / "cpu_kernels" / "sgl_kernel" / "__init__.py"
    return moe_cases.load_file(path, "sgl_kernel_emulated")


def gemm_arguments(sizes: list[int], n: int, k: int, rows: int) -> dict[str, Any]:
    """Arguments of the grouped GEMM on the GPU; rows past the experts' hold NaN."""
    g = torch.Generator("cuda").manual_seed(0)
    experts = len(sizes)
    starts = [sum(sizes[:e]) for e in range(experts)]
    scales_a = torch.randn(rows, k // 128, generator=g, device="cuda")
    scales_b = torch.randn(experts, n // 128, k // 128, generator=g, device="cuda")

    def full(value: int) -> torch.Tensor:
        return torch.full((experts,), value, dtype=torch.int64, device="cuda")

    def layout() -> torch.Tensor:
        return torch.empty(experts, 5, dtype=torch.int32, device="cuda")

    return dict(
        output=moe_cases.poison(torch.empty(rows, n, dtype=torch.bfloat16, device="cuda")),
        **{f"{name}_ptrs": full(0) for name in ("a", "b", "out", "a_scales", "b_scales")},
        a=moe_cases.fp8_normal(g, rows, k),
        b=moe_cases.fp8_normal(g, experts, n, k).transpose(1, 2),
        scales_a=scales_a,
        scales_b=scales_b.transpose(1, 2),
        stride_a=full(k),
        stride_b=full(k),
        stride_c=full(n),
        layout_sfa=layout(),
        layout_sfb=layout(),
        problem_sizes=torch.tensor([[m, n, k] for m in sizes], dtype=torch.int32, device="cuda"),
        expert_offsets=torch.tensor(starts, dtype=torch.int32, device="cuda"),
        workspace=torch.empty(90 * 1024, dtype=torch.uint8, device="cuda"),
    )


@pytest.mark.parametrize(("n", "k"), [(4096, 7168), (7168, 2048)])
@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([1, 0, 0, 0], 8),
        ([0, 0, 0, 0], 8),
        ([3, 0, 130, 17], 456),  # up to 2048 rows of `a`: operands swapped, small tiles
        ([0, 57, 1, 64], 2048),
        ([500, 0, 1, 300], 2056),  # more: large tiles
    ],
)
def test_grouped_gemm_like_real(
    real: ModuleType, emulation: ModuleType, sizes: list[int], rows: int, n: int, k: int
) -> None:
    args = gemm_arguments(sizes, n, k, rows)
    want = args["output"].clone()
    emulation.fp8_blockwise_scaled_grouped_mm(**{**args, "output": want})
    real.fp8_blockwise_scaled_grouped_mm(**args)
    torch.cuda.synchronize()
    got, used = args["output"], sum(sizes)
    what = f"rows {sizes} of {rows}, N {n}, K {k}"
    assert got[used:].isnan().all(), f"{what}: rows of no expert were written"
    assert not got[:used].isnan().any(), f"{what}: rows were not written"
    if used:
        error = (got[:used].float() - want[:used].float()).norm() / want[:used].float().norm()
        assert error < 5e-3, f"{what}: relative L2 error {float(error):.3g}"


@pytest.mark.parametrize("tokens", [1, 57, 901, 14107])
def test_prepare_moe_input_like_real(real: ModuleType, emulation: ModuleType, tokens: int) -> None:
    experts, top_k = 32, 8
    g = torch.Generator().manual_seed(tokens)
    ids = torch.stack([torch.randperm(256, generator=g)[:top_k] for _ in range(tokens)]) - 64
    ids = ids.to(torch.int32).cuda()
    pairs = ids.numel()
    results = []
    for module in (real, emulation):
        offsets = torch.empty(experts + 1, dtype=torch.int32, device="cuda")
        sizes1 = torch.empty(experts, 3, dtype=torch.int32, device="cuda")
        sizes2 = torch.empty(experts, 3, dtype=torch.int32, device="cuda")
        source = torch.full((pairs,), SENTINEL, dtype=torch.int32, device="cuda")
        rows = torch.full((pairs,), SENTINEL, dtype=torch.int32, device="cuda")
        module.prepare_moe_input(ids, offsets, sizes1, sizes2, source, rows, experts, INTER, HIDDEN)
        results.append((offsets, sizes1, sizes2, source, rows))
    for index, name in enumerate(("expert_offsets", "problem_sizes1", "problem_sizes2")):
        assert results[0][index].equal(results[1][index]), f"T={tokens}: {name} differ"
    for (offsets, _, _, source, rows), name in zip(results, ("real", "emulated"), strict=True):
        what = f"{name}, T={tokens}"
        flat, total = ids.flatten(), int(offsets[-1])
        local = (flat >= 0) & (flat < experts)
        assert rows[~local].eq(SENTINEL).all(), f"{what}: rows of non-local pairs were written"
        assert source[total:].eq(SENTINEL).all(), f"{what}: entries past the total were written"
        own, expert = rows[local].long(), flat[local].long()
        assert own.sort().values.equal(torch.arange(total, device="cuda")), what
        assert ((own >= offsets[expert]) & (own < offsets[expert + 1])).all(), what
        token = torch.nonzero(local).flatten() // top_k
        assert source[own].long().equal(token), f"{what}: rows and tokens do not match"


@pytest.mark.parametrize(
    ("dtype", "cols"), [(FP8, HIDDEN), (torch.float32, HIDDEN // 128), (torch.bfloat16, HIDDEN)]
)
@pytest.mark.parametrize("rows", [8, 456, 7208])
def test_shuffle_rows_like_real(
    real: ModuleType, emulation: ModuleType, dtype: torch.dtype, cols: int, rows: int
) -> None:
    x = torch.randn(rows // 8, cols, device="cuda").to(dtype)
    order = torch.randint(0, rows // 8, (rows,), dtype=torch.int32, device="cuda")
    got = real.shuffle_rows(x, order, (rows, cols))
    want = emulation.shuffle_rows(x, order, (rows, cols))
    assert got.view(torch.uint8).equal(want.view(torch.uint8)), f"{dtype}, {rows} x {cols}"


@pytest.mark.parametrize("rows", [8, 456, 7208])
def test_silu_and_mul_like_real(real: ModuleType, emulation: ModuleType, rows: int) -> None:
    x = (torch.randn(rows, 2 * INTER, device="cuda") * 200).bfloat16()
    got, want = real.silu_and_mul(x), emulation.silu_and_mul(x)
    error = (got.float() - want.float()).abs()
    worst = float((error / want.float().abs().clamp(min=1e-20)).max())
    assert worst <= 2**-7, f"{rows} rows: worst relative error {worst:.3g}"


@pytest.mark.parametrize("rows", [8, 456, 7208])
def test_group_quantisation_like_real(real: ModuleType, emulation: ModuleType, rows: int) -> None:
    x = (torch.randn(rows, INTER, device="cuda") * 1e4).bfloat16()
    x[0, :128] = 0
    results = []
    for module in (real, emulation):
        values = torch.empty(rows, INTER, dtype=FP8, device="cuda")
        scale = torch.empty(rows, INTER // 128, device="cuda")
        module.sgl_per_token_group_quant_8bit(x, values, scale, 128, 1e-10, -448.0, 448.0)
        results.append((values, scale))
    (got, got_scale), (want, want_scale) = results
    torch.testing.assert_close(got_scale, want_scale, rtol=1e-6, atol=0)
    differ = float((got.view(torch.uint8) != want.view(torch.uint8)).float().mean())
    assert differ < 1e-3, f"{rows} rows: {differ:.3%} of the values differ"
    # Where rounding went the other way it is by one step, 1/8 at most.
    torch.testing.assert_close(got.float(), want.float(), rtol=0.126, atol=2**-9)


@pytest.mark.parametrize("used", [0, 5, 456])
def test_fused_swiglu_and_quantisation_like_real(
    real: ModuleType, emulation: ModuleType, used: int
) -> None:
    """The form that triton_v3 uses: a count in device memory, packed power-of-two scales."""
    rows, groups = 456, INTER // 128
    x = (torch.randn(1, rows, 2 * INTER, device="cuda") * 100).bfloat16()
    count = torch.tensor([used], dtype=torch.int32, device="cuda")
    results = []
    for module in (real, emulation):
        values = moe_cases.poison(torch.empty(1, rows, INTER, dtype=FP8, device="cuda"))
        words = torch.full((1, groups // 4, rows), SENTINEL, dtype=torch.int32, device="cuda")
        module.sgl_per_token_group_quant_8bit(
            x,
            values,
            words.mT,
            128,
            1e-10,
            -448.0,
            448.0,
            scale_ue8m0=True,
            fuse_silu_and_mul=True,
            masked_m=count,
        )
        exponents = words[0].view(torch.uint8).view(groups // 4, rows, 4).permute(1, 0, 2)
        results.append((values[0], exponents.reshape(rows, groups).int(), words[0]))
    (got, got_exponents, words), (_, want_exponents, _) = results
    assert got[used:].float().isnan().all(), f"{used} rows: values past the count were written"
    assert words[:, used:].eq(SENTINEL).all(), f"{used} rows: scales past the count were written"
    if used:
        # Another rounding of silu can move an amax over a power of two.
        differ = (got_exponents[:used] != want_exponents[:used]).float().mean()
        assert differ < 1e-2, f"{used} rows: {float(differ):.3%} of the scales differ"
        back = [
            v[:used].float() * torch.exp2(e[:used].float() - 127).repeat_interleave(128, dim=1)
            for v, e, _ in results
        ]
        error = float((back[0] - back[1]).norm() / back[1].norm())
        assert error < 1e-2, f"{used} rows: relative L2 error {error:.3g}"


def test_fusion_is_ignored_with_float32_scales(real: ModuleType) -> None:
    """Why triton_v3 unpacks powers of two: the operation quantises the first half of memory instead."""
    rows = 16
    x = (torch.randn(rows, 2 * INTER, device="cuda") * 100).bfloat16()
    values = torch.empty(rows, INTER, dtype=FP8, device="cuda")
    scale = torch.empty(rows, INTER // 128, device="cuda")
    real.sgl_per_token_group_quant_8bit(
        x, values, scale, 128, 1e-10, -448.0, 448.0, fuse_silu_and_mul=True
    )
    back = values.float() * scale.repeat_interleave(128, dim=1)
    unfused = x.flatten()[: rows * INTER].view(rows, INTER).float()
    assert float((back - unfused).norm() / unfused.norm()) < 0.05
