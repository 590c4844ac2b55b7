"""Definitions: FlashInfer-Bench accepts them, and the reference does what section by section is said of it."""

import flashinfer_bench.data as fib
import pytest
import torch

from harness.definition import FULL, SMALL, Definition, discover_definitions, load_definition
from harness.errors import HarnessError
from harness.paths import PROJECT

DEFINITIONS = PROJECT / "definitions"


@pytest.fixture(params=[FULL, SMALL])
def definition(request: pytest.FixtureRequest) -> Definition:
    return load_definition(DEFINITIONS / request.param)


def test_flashinfer_bench_accepts_it(definition: Definition) -> None:
    loaded = fib.Definition.model_validate(definition.definition_json())
    assert loaded.op_type == "moe"
    assert list(loaded.inputs) == [
        "routing_logits",
        "routing_bias",
        "hidden_states",
        "hidden_states_scale",
        "gemm1_weights",
        "gemm1_weights_scale",
        "gemm2_weights",
        "gemm2_weights_scale",
        "local_expert_offset",
        "routed_scaling_factor",
    ]
    assert loaded.var_axes == ["seq_len"]


def test_full_size_shapes() -> None:
    loaded = fib.Definition.model_validate(load_definition(DEFINITIONS / FULL).definition_json())
    assert loaded.get_input_shapes({"seq_len": 5}) == [
        [5, 256],
        [256],
        [5, 7168],
        [56, 5],
        [32, 4096, 7168],
        [32, 32, 56],
        [32, 7168, 2048],
        [32, 56, 16],
        None,
        None,
    ]
    dtypes = [str(d) for d in loaded.torch_input_dtypes]
    assert dtypes == [
        "torch.float32",
        "torch.bfloat16",
        "torch.float8_e4m3fn",
        "torch.float32",
        "torch.float8_e4m3fn",
        "torch.float32",
        "torch.float8_e4m3fn",
        "torch.float32",
        "torch.int32",
        "torch.float32",
    ]


def test_axes_are_consistent(definition: Definition) -> None:
    axes = definition.const_axes
    assert axes["gemm1_out_size"] == 2 * axes["intermediate_size"]
    assert axes["num_hidden_blocks"] * 128 == axes["hidden_size"]
    assert axes["num_intermediate_blocks"] * 128 == axes["intermediate_size"]
    assert axes["num_gemm1_out_blocks"] * 128 == axes["gemm1_out_size"]


def test_both_share_one_reference() -> None:
    known = discover_definitions(DEFINITIONS)
    assert known[FULL].reference == known[SMALL].reference


def test_routing_by_hand() -> None:
    """Four groups win by their two best experts; the eight best of those win; the bias chooses but does not weigh."""
    route = load_definition(DEFINITIONS / SMALL).reference_module().route
    logits = torch.full((1, 256), -10.0)
    bias = torch.zeros(256)
    # Group 7 has one outstanding expert; groups 0-3 have two good ones each, so the pair of scores beats the single one.
    logits[0, 7 * 32] = 0.5
    for group in range(4):
        logits[0, group * 32 + 1] = 1.0 + group
        logits[0, group * 32 + 2] = 1.0 + group
    ids, weights = route(logits, bias, 2.5)
    assert sorted(ids[0].tolist()) == [1, 2, 33, 34, 65, 66, 97, 98]
    scores = torch.sigmoid(logits[0, ids[0]])
    torch.testing.assert_close(weights[0], scores / scores.sum() * 2.5)

    bias[7 * 32] = 5.0  # now the group counts, and the expert with it
    ids, weights = route(logits, bias, 1.0)
    assert 7 * 32 in ids[0].tolist()
    assert not {1, 2} <= set(ids[0].tolist())  # the weakest group made room
    slot = ids[0].tolist().index(7 * 32)
    scores = torch.sigmoid(logits[0, ids[0]])
    torch.testing.assert_close(weights[0, slot], (scores / scores.sum())[slot])


def test_reference_against_float64_by_hand() -> None:
    """One token, its experts one by one in float64: block scales, order of gate and up, weights, signs."""
    small = load_definition(DEFINITIONS / SMALL)
    module, axes = small.reference_module(), small.const_axes
    torch.manual_seed(0)
    num_tokens, hidden, inter, offset = 3, axes["hidden_size"], axes["intermediate_size"], 77

    def fp8(*shape: int) -> torch.Tensor:
        return torch.randn(shape).clamp(-2, 2).to(torch.float8_e4m3fn)

    logits, bias = torch.randn(num_tokens, 256), (0.05 * torch.randn(256)).bfloat16()
    x, xs = fp8(num_tokens, hidden), torch.randn(hidden // 128, num_tokens)
    w13, s13 = fp8(32, 2 * inter, hidden), torch.randn(32, 2 * inter // 128, hidden // 128)
    w2, s2 = fp8(32, hidden, inter), torch.randn(32, hidden // 128, inter // 128)
    logits[0, offset : offset + 32] += 5  # local experts for sure
    logits[2, offset : offset + 32] -= 50  # none
    output = module.run(logits, bias, x, xs, w13, s13, w2, s2, offset, 2.5)

    ids, weights = module.route(logits, bias, 2.5)
    expected = torch.zeros(num_tokens, hidden, dtype=torch.float64)
    for token in range(num_tokens):
        for slot, expert in enumerate(ids[token].tolist()):
            local = expert - offset
            if not 0 <= local < 32:
                continue
            row = torch.stack(
                [x[token, h].double() * xs[h // 128, token].double() for h in range(hidden)]
            )
            rows, cols = torch.arange(2 * inter) // 128, torch.arange(hidden) // 128
            h1 = (w13[local].double() * s13[local][rows][:, cols].double()) @ row
            act = h1[inter:] / (1 + torch.exp(-h1[inter:])) * h1[:inter]
            rows, cols = torch.arange(hidden) // 128, torch.arange(inter) // 128
            out = (w2[local].double() * s2[local][rows][:, cols].double()) @ act
            expected[token] += weights[token, slot].double() * out
    assert expected[0].abs().max() > 1
    assert torch.equal(output[2], torch.zeros(hidden, dtype=torch.bfloat16))
    error = (output.double() - expected).norm() / expected.norm()
    assert error < 4e-3, f"relative error {error:.2e}: more than bfloat16 rounding"


def test_unknown_key(tmp_path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "definition.yaml").write_text("name: d\nfoo: 1\n")
    with pytest.raises(HarnessError, match=r"definition.yaml: key '\w+'"):
        load_definition(folder)
