"""The float64 reference agrees with the definition's own, and knows every valid choice where scores tie."""

from itertools import combinations

import pytest
import torch

from harness.definition import SMALL, load_definition
from harness.paths import Paths
from harness.verify.cases import ROUTINGS, SCALES, Case, Weights
from harness.verify.compare import Tolerance, compare, nearest
from harness.verify.exam import References
from harness.verify.inputs import Sizes, Tensors, make_weights
from harness.verify.references import Reference, route, valid_choices

DEFINITION = load_definition(Paths().definitions / SMALL)
SIZES = Sizes.of(DEFINITION.const_axes)
SEED_TOLERANCE = Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85)
WEIGHTS = {equal: Weights(1, equal) for equal in (False, True)}


@pytest.fixture(scope="module")
def references() -> References:
    return References(SIZES, "cpu")


def definition_output(case: Case, inputs: Tensors, weights: Tensors) -> torch.Tensor:
    tensors = {**inputs, **weights}
    names = list(DEFINITION.file.inputs)[:8]
    arguments = [tensors[name] for name in names]
    return DEFINITION.reference_module().run(*arguments, case.offset, case.factor)


@pytest.mark.parametrize("offset", [0, 77, 224])
@pytest.mark.parametrize("routing", [r for r in ROUTINGS if r != "dataset"])
def test_agrees_with_the_definitions_reference(
    references: References, routing: str, offset: int
) -> None:
    case = Case(7, offset, routing, seed=offset)
    spec = WEIGHTS[routing == "tie_all"]
    output = definition_output(case, references.activations(case), references.weights(spec).tensors)
    found = compare(output, references.expected(spec, case), SEED_TOLERANCE)
    assert found.ok and found.worst_row < 0.004, found  # bfloat16's last bit


@pytest.mark.parametrize("scales", SCALES)
def test_agrees_under_every_kind_of_scale(references: References, scales: str) -> None:
    case = Case(7, 32, "half_local", seed=1, scales=scales)
    output = definition_output(
        case, references.activations(case), references.weights(WEIGHTS[False]).tensors
    )
    found = compare(output, references.expected(WEIGHTS[False], case), SEED_TOLERANCE)
    assert found.ok and found.worst_row < 0.004, found


def test_valid_choices_of_a_tie_for_the_last_place() -> None:
    logits = torch.full((256,), -5.0, dtype=torch.float64)
    logits[:7] = torch.arange(7) + 1.0  # seven clear ones in group 0
    logits[[7, 9, 11]] = 0.5  # three for the eighth place
    choices = valid_choices(logits, torch.zeros(256, dtype=torch.float64))
    # The other three groups are any three of seven, which changes nothing.
    assert sorted(choices) == [(*range(7), last) for last in (7, 9, 11)]


def test_valid_choices_of_a_tie_between_groups() -> None:
    logits = torch.full((256,), -5.0, dtype=torch.float64)
    for group in range(5):  # five groups of two equal experts each, four may be kept
        logits[[32 * group, 32 * group + 1]] = 1.0
    choices = valid_choices(logits, torch.zeros(256, dtype=torch.float64))
    pairs = [(32 * g, 32 * g + 1) for g in range(5)]
    assert sorted(choices) == sorted(tuple(sorted(sum(c, ()))) for c in combinations(pairs, 4))


def test_too_many_choices_are_refused_unless_experts_are_alike() -> None:
    logits = torch.zeros(256, dtype=torch.float64)
    with pytest.raises(ValueError, match="valid choices"):
        valid_choices(logits, logits)
    kinds = valid_choices(logits, logits, alike=range(32))
    assert {sum(e < 32 for e in choice) for choice in kinds} == set(range(9))
    assert all(len(set(choice)) == 8 for choice in kinds)


def test_close_scores_are_a_tie_and_others_are_not() -> None:
    logits = torch.linspace(-3, 3, 256, dtype=torch.float64).repeat(2, 1)
    bias = torch.zeros(256, dtype=torch.float64)
    order = torch.sigmoid(logits[1]).sort(descending=True).indices
    logits[1, order[8]] = logits[1, order[7]] - 1e-7
    assert route(logits, bias)[1] == [1]


def test_an_invalid_choice_is_not_accepted(references: References) -> None:
    """Every valid choice of tied experts passes, an expert from outside the tie does not."""
    case = Case(2, 32, "tie_experts", seed=3)
    expected = references.expected(WEIGHTS[False], case)
    inputs = references.activations(case)
    assert {len(others) for others in expected.others.values()} == {3}
    for token, others in expected.others.items():
        for row in others:
            output = expected.values.clone()
            output[token] = row
            assert compare(output.bfloat16(), expected, SEED_TOLERANCE).ok
    inputs["routing_logits"][
        0, inputs["routing_logits"][0].argmax()
    ] = -3.0  # its best expert is gone
    wrong = Reference(make_weights(WEIGHTS[False], SIZES, "cpu"), SIZES).expected(case, inputs)
    output = torch.cat([wrong.values[:1], expected.values[1:]])
    assert not compare(output.bfloat16(), expected, SEED_TOLERANCE).ok


def test_nearest_takes_each_token_by_itself(references: References) -> None:
    case = Case(3, 32, "tie_groups", seed=4)
    expected = references.expected(WEIGHTS[False], case)
    mixed = expected.values.clone()
    mixed[1] = expected.others[1][0]
    assert torch.equal(nearest(mixed, expected), mixed)
