"""What an FP8 or bf16 intermediate costs in matched ratio, at full size on the CPU, without any solution.

Random experts with inputs as flashinfer-bench draws them, 256 tokens each; the rows of several experts added up stand for
tokens with that many local experts. Per token: the share of outputs that match the float32 result at the seed and the
contest tolerance. python results/2026-11-25-f8-intermediate/study.py > study.log
"""

import torch

HIDDEN, INTER, BLOCK, EXPERTS, TOKENS = 7168, 2048, 128, 8, 256
F8 = torch.float8_e4m3fn


def fp8_normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape).clamp_(-2, 2).to(F8).float()


def weights(rows: int, columns: int) -> torch.Tensor:
    scale = torch.randn(rows // BLOCK, columns // BLOCK)
    scale = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return fp8_normal(rows, columns) * scale


def f8_parts(h: torch.Tensor, parts: int) -> torch.Tensor:
    """h [T, I] rounded to the sum of `parts` e4m3 values with a scale per row and 128 columns."""
    groups = h.view(len(h), -1, BLOCK)
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448
    left, total = groups / scale, torch.zeros_like(groups)
    for _ in range(parts):
        part = left.to(F8).float()
        left, total = left - part, total + part
    return (total * scale).view_as(h)


def matched(output: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> torch.Tensor:
    error = (output - expected).abs()
    fails = (error > atol) & (error > rtol * expected.abs())
    return 1 - fails.float().mean(1)


def main() -> None:
    torch.manual_seed(0)
    rows: dict[str, list[torch.Tensor]] = {}
    for _ in range(EXPERTS):
        w13, w2 = weights(2 * INTER, HIDDEN), weights(HIDDEN, INTER)
        x = fp8_normal(TOKENS, HIDDEN)
        x *= torch.randn(TOKENS, HIDDEN // BLOCK).repeat_interleave(BLOCK, 1)
        up_gate = x @ w13.T
        h = torch.nn.functional.silu(up_gate[:, INTER:]) * up_gate[:, :INTER]
        bf16 = h.bfloat16().float()
        variants = {
            "float32": h,
            "bf16": bf16,
            "bf16 as 2 f8 parts": f8_parts(bf16, 2),
            "bf16 as 1 f8 part": f8_parts(bf16, 1),
            "f8": f8_parts(h, 1),
        }
        combine = torch.rand(TOKENS, 1) + 0.2
        for name, inter in variants.items():
            rows.setdefault(name, []).append(inter @ w2.T * combine)
    print(f"torch {torch.__version__}, H {HIDDEN}, I {INTER}, {TOKENS} tokens per line")
    print(
        "local experts, intermediate: matched ratio least and mean, seed | contest; largest relative L2 error"
    )
    for experts in (1, 2, 3, 4, 8):
        output = {name: sum(r[:experts]).bfloat16().float() for name, r in rows.items()}
        expected = output.pop("float32")
        for name, got in output.items():
            seed = matched(got, expected, 0.2, 0.1)
            contest = matched(got, expected, 0.3, 1.0)
            l2 = ((got - expected).norm(dim=1) / expected.norm(dim=1)).max()
            print(
                f"{experts} {name:18} {seed.min():.4f} {seed.mean():.4f} | "
                f"{contest.min():.4f} {contest.mean():.4f}; {l2:.4f}"
            )


if __name__ == "__main__":
    main()
