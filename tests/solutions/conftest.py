"""Put the emulation of sgl_kernel on the path, for these tests only."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EMULATION = Path(__file__).resolve().parents[2] / "harness" / "cpu_kernels"


@pytest.fixture
def emulated_sgl_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import sgl_kernel` gives the emulation, even where the real package is installed."""
    monkeypatch.delitem(sys.modules, "sgl_kernel", raising=False)
    monkeypatch.syspath_prepend(EMULATION)
    yield
    sys.modules.pop("sgl_kernel", None)
