"""What is computed from a profile of the device, on made-up ones."""

from types import SimpleNamespace

import pytest

from harness.verify.gpu_commands import covered, kernel_ranges


def event(start: float, end: float, device: str = "CUDA") -> SimpleNamespace:
    return SimpleNamespace(
        device_type=SimpleNamespace(name=device), time_range=SimpleNamespace(start=start, end=end)
    )


@pytest.mark.parametrize(
    ("ranges", "busy"),
    [
        ([], 0.0),
        ([(1, 3)], 2.0),
        ([(5, 6), (1, 3)], 3.0),  # in no order
        ([(1, 4), (3, 6)], 5.0),  # kernels that overlap
        ([(1, 9), (2, 3), (4, 5)], 8.0),  # one within another
    ],
)
def test_time_in_which_a_kernel_ran(ranges: list[tuple[float, float]], busy: float) -> None:
    assert covered(ranges) == busy


def test_only_the_device_counts() -> None:
    found = kernel_ranges([event(0, 100, "CPU"), event(10, 12)])
    assert found == [(10, 12)]
