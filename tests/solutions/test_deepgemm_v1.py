"""deepgemm_v1's kernels around the GEMMs, under Triton's interpreter, with DeepGEMM's contract in plain PyTorch.

The stand-in checks what the library requires of its arguments and fills rows of no pair with NaN, so that a kernel which
read one would show. The library itself runs on a GPU only (tests/gpu).
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from tests import moe_cases

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the variants here"),
    pytest.mark.usefixtures("poisoned_workspace"),
    # exp(-gate) may overflow to infinity, which gives the limit wanted.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
Run = Callable[..., None]


class DeepGemm(ModuleType):
    """The three functions that the solution calls, as sgl-deep-gemm 0.1.2 defines them on compute capability 9.0."""

    alignment = 128

    def set_mk_alignment_for_contiguous_layout(self, rows: int) -> None:
        assert rows in (64, 128), rows
        self.alignment = rows

    def m_grouped_fp8_gemm_nt_contiguous(
        self,
        a: tuple[torch.Tensor, torch.Tensor],
        b: tuple[torch.Tensor, torch.Tensor],
        d: torch.Tensor,
        grouped_layout: torch.Tensor,
        *,
        recipe: tuple[int, int, int],
        disable_ue8m0_cast: bool,
        use_psum_layout: bool,
        expected_m_for_psum_layout: int,
    ) -> None:
        """Rows align(ends[e - 1]) to ends[e] belong to expert e."""
        assert use_psum_layout and expected_m_for_psum_layout > 0
        (x, sx), (w, sw) = a, b
        rows, k = x.shape
        assert sx.shape == (rows, k // 128) and sx.stride() == (1, rows), (sx.shape, sx.stride())
        assert rows % 4 == 0, "TMA wants rows of scales at multiples of 16 bytes"
        check(x, w, sx, sw, d, grouped_layout, recipe, disable_ue8m0_cast)
        start = 0
        for expert, end in enumerate(grouped_layout.tolist()):
            assert start <= end <= rows, (expert, start, end, rows)
            tiles_end = -(-end // self.alignment) * self.alignment
            assert tiles_end <= rows, "a tile's store reaches past the last row"
            d[start:tiles_end] = float("nan")
            d[start:end] = product(x[start:end], sx[start:end], w[expert], sw[expert])
            start = tiles_end

    def m_grouped_fp8_fp4_gemm_nt_masked(
        self,
        a: tuple[torch.Tensor, torch.Tensor],
        b: tuple[torch.Tensor, torch.Tensor],
        d: torch.Tensor,
        masked_m: torch.Tensor,
        expected_m: int,
        *,
        recipe: tuple[int, int, int],
        disable_ue8m0_cast: bool,
    ) -> None:
        """The first masked_m[e] rows of expert e."""
        (x, sx), (w, sw) = a, b
        experts, capacity, k = x.shape
        blocks = k // 128
        assert expected_m > 0 and sx.shape == (experts, capacity, blocks)
        assert sx.stride() == (blocks * capacity, 1, capacity), sx.stride()
        assert capacity % 128 == 0, "a tile's store reaches into the next expert's rows"
        check(x, w, sx, sw, d, masked_m, recipe, disable_ue8m0_cast)
        for expert, count in enumerate(masked_m.tolist()):
            assert 0 <= count <= capacity, (expert, count)
            d[expert, : -(-count // 64) * 64] = float("nan")
            rows = slice(0, count)
            d[expert, rows] = product(x[expert, rows], sx[expert, rows], w[expert], sw[expert])


def check(
    x: torch.Tensor,
    w: torch.Tensor,
    sx: torch.Tensor,
    sw: torch.Tensor,
    d: torch.Tensor,
    counts: torch.Tensor,
    recipe: tuple[int, int, int],
    disable_ue8m0_cast: bool,
) -> None:
    experts, n, k = w.shape
    assert x.dtype == w.dtype == torch.float8_e4m3fn and d.dtype == torch.bfloat16
    assert x.is_contiguous() and w.is_contiguous() and d.is_contiguous()
    assert x.shape[-1] == k and d.shape == (*x.shape[:-1], n)
    assert sx.dtype == sw.dtype == torch.float32
    assert sw.is_contiguous() and sw.shape == (experts, n // 128, k // 128)
    assert counts.dtype == torch.int32 and counts.shape == (experts,) and counts.is_contiguous()
    assert recipe == (1, 128, 128) and disable_ue8m0_cast


def product(x: torch.Tensor, sx: torch.Tensor, w: torch.Tensor, sw: torch.Tensor) -> torch.Tensor:
    x32 = x.float() * sx.repeat_interleave(128, dim=1)
    w32 = w.float() * sw.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)
    return (x32 @ w32.T).bfloat16()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The entry point of a fresh import, with the stand-in as `deep_gemm`."""
    monkeypatch.setitem(sys.modules, "deep_gemm", DeepGemm("deep_gemm"))
    yield moe_cases.load_variant("deepgemm_v1")


def run_and_check(run: Run, inputs: moe_cases.Inputs, what: str, **options: object) -> torch.Tensor:
    output = moe_cases.poisoned_output(inputs)
    call = moe_cases.module(run, "main").run_with if options else run
    call(*inputs.args(), output, **options)
    moe_cases.check(output, moe_cases.reference().run(*inputs.args()), inputs, what)
    return output


@pytest.mark.parametrize(("tokens", "offset"), [(1, 0), (7, 32), (57, 77), (300, 224)])
def test_random_routing(run: Run, tokens: int, offset: int) -> None:
    """Both layouts of the table."""
    size = moe_cases.TINY if tokens == 300 else {}
    run_and_check(run, moe_cases.make_inputs(tokens, offset, seed=tokens, **size), "random")


@pytest.mark.parametrize(("align", "masked"), [(64, False), (128, False), (64, True)])
@pytest.mark.parametrize(
    ("tokens", "routing"),
    [(3, "no_local"), (130, "one_expert"), (9, "all_local"), (6, "half_local")],
)
def test_every_layout(run: Run, align: int, masked: bool, tokens: int, routing: str) -> None:
    layout = moe_cases.module(run, "layouts").Layout(align=align, masked=masked)
    inputs = moe_cases.make_inputs(tokens, 77, routing, **moe_cases.TINY)
    run_and_check(run, inputs, f"{layout} {routing}", layout=layout)


def test_changing_calls_on_one_module(run: Run) -> None:
    """T, offset, routing and layout change from call to call, on buffers with the last call's rows."""
    layouts = moe_cases.module(run, "layouts")
    contiguous = layouts.Layout(align=128, masked=False)
    masked = layouts.Layout(align=64, masked=True)
    calls = [
        (7, 0, "all_local", contiguous),
        (1, 32, "no_local", masked),
        (12, 77, "random", masked),
        (12, 224, "one_expert", contiguous),
        (2, 0, "half_local", masked),
        (7, 32, "random", None),
    ]
    for seed, (tokens, offset, routing, layout) in enumerate(calls):
        inputs = moe_cases.make_inputs(tokens, offset, routing, seed=seed, **moe_cases.TINY)
        run_and_check(run, inputs, f"call {seed}, {routing}", layout=layout)


def test_call_after_a_failed_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that dies after routing leaves counts behind; the next one must not add to them."""
    inputs = moe_cases.make_inputs(3, 32, "all_local", **moe_cases.TINY)
    with monkeypatch.context() as broken:
        broken.setattr(moe_cases.module(run, "main"), "grouped_gemm", None)
        with pytest.raises(TypeError):
            run(*inputs.args(), moe_cases.poisoned_output(inputs))
    run_and_check(run, inputs, "after a failure")


def test_no_tokens(run: Run) -> None:
    inputs = moe_cases.make_inputs(1, 0)
    none = replace(
        inputs,
        routing_logits=inputs.routing_logits[:0],
        hidden_states=inputs.hidden_states[:0],
        hidden_states_scale=inputs.hidden_states_scale[:, :0],
    )
    run(*none.args(), torch.empty(0, 512, dtype=torch.bfloat16))


def test_rows_bound_every_routing(run: Run) -> None:
    """The worst routing gives every expert one row more than whole blocks."""
    layouts = moe_cases.module(run, "layouts")
    for tokens in (1, 3, 16, 57, 1000):
        for align in (64, 128):
            left, worst = tokens * 8, 0
            for _ in range(32):
                rows = min(left, tokens, (tokens - 1) // align * align + 1)
                left, worst = left - rows, worst + -(-rows // align) * align
            assert layouts.Layout(align, masked=False).rows(tokens, 32) >= worst, (tokens, align)


def test_table_is_sorted_and_complete(run: Run) -> None:
    layouts = moe_cases.module(run, "layouts")
    assert all(a[0] < b[0] for a, b in pairwise(layouts.TABLE))
    for limit, layout in layouts.TABLE:
        assert layouts.layout_for(limit) is layout
    assert [layouts.expected_rows(t, 256) for t in (1, 32, 33, 57, 901)] == [1, 1, 2, 2, 32]


def test_manifest_lists_every_source() -> None:
    folder: Path = moe_cases.ROOT / "solutions" / "deepgemm_v1"
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert sorted(manifest["sources"]) == sorted(p.name for p in folder.glob("*.py"))
