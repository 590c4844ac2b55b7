"""What counts as a wrong output."""

import pytest
import torch

from harness.errors import HarnessError
from harness.paths import Paths
from harness.profile import load_profile
from harness.verify.accuracy import describe
from harness.verify.cases import Seeds
from harness.verify.compare import Tolerance, compare, matched_ratio
from harness.verify.exam import References
from harness.verify.inputs import Sizes
from harness.verify.references import Expected
from harness.verify.sanity import check_tolerance

TOLERANCE = Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85)
SIZES = Sizes(experts=256, local=32, hidden=512, inter=256)


@pytest.fixture
def expected() -> Expected:
    values = torch.randn(20, 256, generator=torch.Generator().manual_seed(0)).double() * 100
    idle = torch.zeros(20, dtype=torch.bool)
    idle[3] = True
    values[3] = 0
    return Expected(values, {}, idle)


def spoil(expected: Expected, what: str) -> torch.Tensor:
    output = expected.values.clone()
    if what == "nan":
        output[5, 7] = float("nan")
    elif what == "one row":
        output[5] = 0
    elif what == "stray":
        output[3, 0] = 1e-3
    elif what == "ratio":
        output[:, : 256 // 5] *= 1.5
    return output


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", None),
        ("nan", "1 of 20 rows are not finite"),
        ("one row", "1 of 20 rows are off by more than 15%"),
        ("stray", "1 of 20 rows are not zero"),
        ("ratio", "matched ratio 0.81"),
    ],
)
def test_reasons(expected: Expected, what: str, reason: str | None) -> None:
    found = compare(spoil(expected, what), expected, TOLERANCE)
    assert found.reason == reason if reason is None else reason in (found.reason or ""), found


def test_matched_ratio_is_flashinfer_benchs(expected: Expected) -> None:
    from flashinfer_bench.bench import BenchmarkConfig
    from flashinfer_bench.bench.utils import compute_error_stats

    output = (expected.values * (1 + 0.15 * torch.randn_like(expected.values))).bfloat16()
    config = BenchmarkConfig(rtol=0.2, atol=0.1, required_matched_ratio=0.85)
    theirs = compute_error_stats(output, expected.values.bfloat16(), config)[3]
    assert 0.7 < theirs < 0.9
    ours = matched_ratio(output.double(), expected.values.bfloat16().double(), 0.2, 0.1)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_accuracy_figures() -> None:
    want = torch.tensor([[1.0, 100.0, 0.0]]).double()
    output = torch.tensor([[1.25, 100.0, 0.5]]).double()
    found = describe(output, want, "w", (0.2, 0.3))
    assert found.matched_seed == pytest.approx(1 / 3) and found.matched_contest == 1.0
    assert found.matched_ratio == pytest.approx(2 / 3)
    assert found.max_abs_error == 0.5 and found.max_rel_error == pytest.approx(0.5 / 1e-8)
    assert found.cosine == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rtol": 1.0}, "zeros"),
        ({"atol": 1e7}, "zeros"),
        ({"required_matched_ratio": 0.00001}, "zeros|copy|mean"),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(changes: dict[str, float], what: str) -> None:
    references, seeds = References(SIZES, "cpu"), Seeds(1)
    for profile in ("seed", "contest", "contest-quick", "quick"):
        p = load_profile(Paths().configs, profile)
        sound = Tolerance(p.rtol, p.atol, p.required_matched_ratio)
        check_tolerance(profile, sound, references, seeds)
        loose = Tolerance(**{**sound.__dict__, **changes})
        with pytest.raises(HarnessError, match=what) as refused:
            check_tolerance(profile, loose, references, seeds)
        assert f"configs/{profile}.yaml" in str(refused.value) and refused.value.code == 2
