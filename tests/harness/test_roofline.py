"""The floor, against numbers worked out by hand."""

import pytest

from harness import roofline
from harness.record import Ceilings, DefinitionInfo
from tests.harness.records import AXES, CEILINGS, W1, W57, W14107, WORKLOADS

DEFINITION = DefinitionInfo(name="moe", axes=AXES)


def test_one_expert():
    assert 3 * 7168 * 2048 == 44_040_192
    scales = 4 * (32 * 56 + 56 * 16)
    assert roofline.expert_bytes(AXES) == 44_040_192 + scales
    assert roofline.pair_flops(AXES) == 88_080_384


def test_one_token_is_bound_by_reading_weights():
    found = roofline.floor_of(DEFINITION, W1, CEILINGS)
    weights = 3 * (44_040_192 + 10_752)
    activations = 1 * (7168 + 4 * 56) + (256 * 4 * 1 + 256 * 2) + 1 * 7168 * 2
    assert found.bytes == weights + activations
    assert found.flops == 3 * 88_080_384
    assert found.bound == "memory"
    assert found.us == pytest.approx((weights + activations) / 4400e9 * 1e6)
    assert 30.0 < found.us < 30.1


def test_many_tokens_are_bound_by_arithmetic():
    found = roofline.floor_of(DEFINITION, W14107, CEILINGS)
    assert found.bound == "compute"
    assert found.us == pytest.approx(16099 * 88_080_384 / 1300e12 * 1e6)
    assert found.us > found.memory_us > 0


def test_activations_of_non_local_tokens_are_not_read_but_their_zeros_are_written():
    few = W57.model_copy(update={"local_tokens": 27})
    change = (
        roofline.floor_of(DEFINITION, W57, CEILINGS).bytes
        - roofline.floor_of(DEFINITION, few, CEILINGS).bytes
    )
    assert change == 7168 + 4 * 56
    longer = W57.model_copy(update={"seq_len": 58})
    change = (
        roofline.floor_of(DEFINITION, longer, CEILINGS).bytes
        - roofline.floor_of(DEFINITION, W57, CEILINGS).bytes
    )
    assert change == 2 * 7168 + 4 * 256


@pytest.mark.parametrize("count", ["local_pairs", "local_tokens", "active_experts"])
def test_unknown_counts_give_no_floor(count):
    assert roofline.floor_of(DEFINITION, W1.model_copy(update={count: None}), CEILINGS) is None


def test_unknown_ceilings_or_axes_give_no_floor():
    assert roofline.floor_of(DEFINITION, W1, None) is None
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        broken = Ceilings(read_gb_per_s=rate, fp8_tflop_per_s=1300.0, method="")
        assert roofline.floor_of(DEFINITION, W1, broken) is None
    for axis in ("hidden_size", "intermediate_size", "num_experts", "num_hidden_blocks"):
        axes = {name: size for name, size in AXES.items() if name != axis}
        assert roofline.floor_of(DefinitionInfo(name="moe", axes=axes), W1, CEILINGS) is None


def test_no_local_token_still_costs_the_output():
    idle = W57.model_copy(update={"local_pairs": 0, "local_tokens": 0, "active_experts": 0})
    found = roofline.floor_of(DEFINITION, idle, CEILINGS)
    assert found.flops == 0
    assert found.bytes == 57 * (7168 * 2 + 256 * 4) + 512
    assert found.bound == "memory"


def test_ratio_to_floor():
    floor = roofline.floor_of(DEFINITION, W1, CEILINGS)
    assert roofline.ratio_to_floor(floor.us / 1e3, floor) == pytest.approx(1.0)
    assert roofline.ratio_to_floor(floor.us * 2.5 / 1e3, floor) == pytest.approx(2.5)
    assert roofline.ratio_to_floor(None, floor) is None
    assert roofline.ratio_to_floor(1.0, None) is None
    assert roofline.ratio_to_floor(float("nan"), floor) is None


def test_floor_grows_with_the_workload():
    floors = [roofline.floor_of(DEFINITION, workload, CEILINGS).us for workload in WORKLOADS]
    assert floors == sorted(floors)
