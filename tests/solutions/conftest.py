"""Fixtures of the solutions' tests: the emulation of sgl_kernel, and memory that nothing can rely on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import moe_cases

EMULATION = Path(__file__).resolve().parents[2] / "harness" / "cpu_kernels"


@pytest.fixture
def emulated_sgl_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import sgl_kernel` gives the emulation, even where the real package is installed."""
    monkeypatch.delitem(sys.modules, "sgl_kernel", raising=False)
    monkeypatch.syspath_prepend(EMULATION)
    yield
    sys.modules.pop("sgl_kernel", None)


@pytest.fixture
def poisoned_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty gives bytes that are NaN as any float and a far index as any integer, other dtypes NaN or huge."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        return tensor.fill_(0x7F) if tensor.dtype == torch.uint8 else moe_cases.poison(tensor)

    monkeypatch.setattr(torch, "empty", poisoned)
