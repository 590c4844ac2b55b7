"""triton_v4's CUDA graphs, with a stand-in for torch's."""

import sys
from types import ModuleType

import pytest
import torch

from tests import moe_cases

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="tests/gpu runs the variants here"
)


class StubGraph:
    """Stands for torch.cuda.CUDAGraph and counts."""

    fails = False
    replays = 0

    def capture_begin(self, **_: object) -> None:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    def capture_end(self) -> None:
        pass

    def replay(self) -> None:
        StubGraph.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    run = moe_cases.load_variant("triton_v4")
    graphs = sys.modules[run.__module__.replace(".main", ".graphs")]
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StubGraph)
    monkeypatch.setattr(graphs, "_side_stream", lambda device: None)
    monkeypatch.setattr(StubGraph, "replays", 0)
    return graphs


def test_graph_is_captured_at_second_sight(graphs: ModuleType) -> None:
    cache, work = graphs.GraphCache(capacity=4), []
    assert not cache.replay("a") and not cache.wants_capture("a")
    assert not cache.replay("a") and cache.wants_capture("a")
    assert cache.capture("a", torch.device("cpu"), lambda: work.append(1), keep=None)
    assert work == [1] and cache.replay("a") and StubGraph.replays == 1
    assert not cache.replay("b")


def test_least_recently_used_graph_goes(graphs: ModuleType) -> None:
    cache = graphs.GraphCache(capacity=2)
    for key in "ab":
        cache.wants_capture(key)
        cache.capture(key, torch.device("cpu"), lambda: None, keep=None)
    assert cache.replay("a")
    cache.wants_capture("c")
    assert cache.replay("a") and not cache.replay("b")


def test_failed_capture_is_not_tried_again(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StubGraph, "fails", True)
    cache = graphs.GraphCache(capacity=2)
    cache.wants_capture("a")
    with pytest.warns(UserWarning, match="no CUDA graph"):
        assert not cache.capture("a", torch.device("cpu"), lambda: None, keep=None)
    assert not cache.wants_capture("a") and not cache.replay("a")
