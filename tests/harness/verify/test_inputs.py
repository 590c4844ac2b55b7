"""What parent and child share beside the tensors, which test_references.py and test_child.py see."""

from collections.abc import Iterator

import pytest
import torch

from harness.verify.inputs import limit_threads


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("cuda:0", 4)])
def test_few_threads_on_the_cpu(threads: None, device: str, most: int) -> None:
    """However many cores there are; a user who wants fewer still gets fewer."""
    torch.set_num_threads(16)
    limit_threads(device)
    assert torch.get_num_threads() == most
    torch.set_num_threads(1)
    limit_threads(device)
    assert torch.get_num_threads() == 1
