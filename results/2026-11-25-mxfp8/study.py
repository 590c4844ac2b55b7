"""What requantising to MXFP8 costs in matched ratio, at full size on the CPU, without any solution.

MXFP8: e4m3 in blocks of 32 along K, each with a power-of-two scale. A block's scale is either the least that clips nothing
(up) or the exponent of its largest value less 8, under which values above 448 clip (down). Random experts with inputs as
flashinfer-bench draws them, 256 tokens; a token's local experts are the first n. Per token: the share of outputs
that match the float32 result at the seed and the contest tolerance.
python results/2026-11-25-mxfp8/study.py > study.log
"""

import torch

HIDDEN, INTER, BLOCK, MX_BLOCK, EXPERTS, TOKENS = 7168, 2048, 128, 32, 8, 256
F8 = torch.float8_e4m3fn
TOLERANCES = {"seed": (0.2, 0.1), "contest": (0.3, 1.0)}


def fp8_normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape).clamp_(-2, 2).to(F8).float()


def weights(rows: int, columns: int) -> torch.Tensor:
    scale = torch.randn(rows // BLOCK, columns // BLOCK)
    return fp8_normal(rows, columns) * scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def mx(values: torch.Tensor, rule: str) -> torch.Tensor:
    """values [..., K] after rounding to MXFP8."""
    blocks = values.view(*values.shape[:-1], -1, MX_BLOCK)
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    up = torch.ceil(torch.log2(largest / 448))
    scale = torch.exp2(up if rule == "up" else torch.floor(torch.log2(largest)) - 8)
    return ((blocks / scale).clamp(-448, 448).to(F8).float() * scale).view_as(values)


def f8(values: torch.Tensor) -> torch.Tensor:
    """values [T, I] rounded to e4m3 with a float32 scale per row and 128 columns, as the solutions do."""
    blocks = values.view(len(values), -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448
    return ((blocks / scale).to(F8).float() * scale).view_as(values)


def swiglu(up_gate: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(up_gate[:, INTER:]) * up_gate[:, :INTER]


def matched(output: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> torch.Tensor:
    error = (output - expected).abs()
    fails = (error > atol) & (error > rtol * expected.abs())
    return 1 - fails.float().mean(1)


def main() -> None:
    torch.manual_seed(0)
    x = fp8_normal(TOKENS, HIDDEN)
    x *= torch.randn(TOKENS, HIDDEN // BLOCK).repeat_interleave(BLOCK, 1)
    combine = torch.rand(TOKENS, EXPERTS) + 0.2
    sums: dict[str, torch.Tensor] = {}
    print(f"torch {torch.__version__}, H {HIDDEN}, I {INTER}, {TOKENS} tokens per line")
    print("local experts, what is MXFP8: matched ratio least and mean, seed | contest; relative L2")
    for expert in range(EXPERTS):
        w13, w2 = weights(2 * INTER, HIDDEN), weights(HIDDEN, INTER)
        h = swiglu(x @ w13.T)
        found = {"float32": h @ w2.T, "nothing": f8(h) @ w2.T}
        for rule in ("up", "down"):
            m13, m2 = mx(w13, rule), mx(w2, rule)
            found[f"weights, {rule}"] = f8(swiglu(x @ m13.T)) @ m2.T
            h = swiglu(mx(x, rule) @ m13.T)
            found[f"weights and x, {rule}"] = h.bfloat16().float() @ m2.T
            found[f"all, {rule}"] = mx(h, rule) @ m2.T
        for name, output in found.items():
            output = combine[:, expert, None] * output
            sums[name] = sums[name] + output if name in sums else output
        if expert + 1 not in (1, 2, 4, 8):
            continue
        expected = sums["float32"]
        for name in list(found)[1:]:
            output = sums[name].bfloat16().float()
            shares = [matched(output, expected, *t) for t in TOLERANCES.values()]
            ratios = " | ".join(f"{s.min():.4f} {s.mean():.4f}" for s in shares)
            error = (output - expected).norm() / expected.norm()
            print(f"{expert + 1} {name:19} {ratios}; {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
