"""Comparing one output with what is expected."""

import math
from dataclasses import dataclass

import torch

from harness.report.numbers import matched
from harness.verify.references import Expected

ROW_ERROR = 0.15
"""Largest relative L2 error of one token. FP8 quantisation of the intermediate costs about 0.03; a token with an expert
too many, too few or wrong, or with another call's inputs, is off by several tenths. The matched ratio alone would let a
solution drop every seventh token."""
ROW_SLACK = 0.1  # of atol, as the root mean square of a row's error that is no matter


@dataclass(frozen=True)
class Tolerance:
    """As in a profile."""

    rtol: float
    atol: float
    required_matched_ratio: float


@dataclass(frozen=True)
class Comparison:
    """One output beside the nearest of the valid ones."""

    reason: str | None
    """Why it is wrong; None when it is right."""
    matched_ratio: float
    """Share of elements within tolerance, by flashinfer-bench's measure."""
    worst_row: float
    """Largest relative L2 error of a token."""

    @property
    def ok(self) -> bool:
        return self.reason is None


def compare(output: torch.Tensor, expected: Expected, tolerance: Tolerance) -> Comparison:
    """Judge `output` [T, H].

    Wrong is: a value that is not finite, a token without a local expert that is not exactly zero, a matched ratio below
    the required one, or one token that is off by more than ROW_ERROR.
    """
    tokens = output.shape[0]
    got = output.double()
    bad = ~torch.isfinite(got).all(dim=1)
    if bad.any():
        reason = (
            f"{int(bad.sum())} of {tokens} rows are not finite, as if they had not been written"
        )
        return Comparison(reason, 0.0, math.inf)
    want = nearest(got, expected)
    ratio = matched_ratio(got, want, tolerance.rtol, tolerance.atol)
    error = (got - want).norm(dim=1) / math.sqrt(output.shape[1])  # [T], root mean square
    size = want.norm(dim=1) / math.sqrt(output.shape[1])
    excess = error - (ROW_ERROR * size + ROW_SLACK * tolerance.atol)
    worst = int(excess.argmax())
    worst_row = float((error / size.clamp(min=1e-300)).max()) if size.any() else 0.0
    reason = None
    stray = expected.idle & (got != 0).any(dim=1)
    if stray.any():
        reason = f"{int(stray.sum())} of {tokens} rows are not zero although their tokens have no local expert"
    elif ratio < tolerance.required_matched_ratio:
        reason = f"matched ratio {matched(ratio)} is below {tolerance.required_matched_ratio}"
    elif excess[worst] > 0:
        off = int((excess > 0).sum())
        reason = (
            f"{off} of {tokens} rows are off by more than {ROW_ERROR:.0%} in L2 norm "
            f"(row {worst}: {float(error[worst] / size[worst].clamp(min=1e-300)):.0%})"
        )
    return Comparison(reason, ratio, worst_row)


def nearest(output: torch.Tensor, expected: Expected) -> torch.Tensor:
    """[T, H] f64: for each token the valid output that `output` [T, H] f64 is nearest to."""
    if not expected.others:
        return expected.values
    want = expected.values.clone()
    for token, others in expected.others.items():
        choices = torch.cat([expected.values[token : token + 1], others])
        want[token] = choices[(choices - output[token]).norm(dim=1).argmin()]
    return want


def matched_ratio(output: torch.Tensor, want: torch.Tensor, rtol: float, atol: float) -> float:
    """Share of elements whose absolute error is at most atol or whose relative error is at most rtol."""
    error = (output - want).abs()
    wrong = (error > atol) & (error / (want.abs() + 1e-8) > rtol)
    return 1.0 - float(wrong.double().mean()) if output.numel() else 1.0
