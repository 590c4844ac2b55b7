"""Tolerances that mean something: a profile under which nonsense passes is refused."""

import torch

from harness.errors import HarnessError
from harness.verify.cases import Case, Seeds, Weights
from harness.verify.compare import Tolerance, matched_ratio
from harness.verify.exam import References
from harness.verify.inputs import BLOCK

TOKENS = 8


def check_tolerance(
    profile: str, tolerance: Tolerance, references: References, seeds: Seeds
) -> None:
    """Refuse a tolerance that zeros, a copy of the input or the mean of the reference would meet.

    Tried on tokens of which each has local experts, since a token without any has zeros as its right output.

    Raises:
        HarnessError: naming the profile, what would pass, and by which matched ratio.
    """
    case = Case(TOKENS, 32, "all_local", seeds.of("sanity"))
    inputs = references.activations(case)
    want = references.expected(Weights(seeds.of("weights")), case).values
    scale = inputs["hidden_states_scale"].t().double().repeat_interleave(BLOCK, dim=1)
    nonsense = {
        "an output of zeros": torch.zeros_like(want),
        "a copy of the hidden states": inputs["hidden_states"].double(),
        "a copy of the dequantised hidden states": inputs["hidden_states"].double() * scale,
        "the mean of the reference everywhere": want.mean().expand_as(want),
        "each token's mean of the reference": want.mean(dim=1, keepdim=True).expand_as(want),
    }
    for what, output in nonsense.items():
        ratio = matched_ratio(output, want, tolerance.rtol, tolerance.atol)
        if ratio >= tolerance.required_matched_ratio:
            raise HarnessError(
                f"configs/{profile}.yaml: key 'required_matched_ratio': {what} would pass with a matched ratio of "
                f"{ratio:.4f} (rtol {tolerance.rtol}, atol {tolerance.atol}, required "
                f"{tolerance.required_matched_ratio}), so a pass would mean nothing; tighten the profile"
            )
