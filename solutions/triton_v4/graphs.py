"""CUDA graphs of whole calls, found again by the addresses that they were captured with.

A graph holds raw addresses and reads what lies there when it is replayed, so memory that was freed and given to other
tensors of the same shapes needs no care. It also holds the workspace views that its kernels use.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache

import torch


@dataclass
class _Entry:
    graph: torch.cuda.CUDAGraph | None = None
    """None until the key is seen a second time, and for good if it cannot be captured."""
    keep: object = None
    """What the graph's addresses belong to, besides the caller's tensors."""
    failed: bool = False


class GraphCache:
    """The graphs of the most recently used keys. Not thread-safe by itself."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def replay(self, key: Hashable) -> bool:
        """Launch the graph of `key` on the current stream; False if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.graph is None:
            return False
        self._entries.move_to_end(key)
        entry.graph.replay()
        return True

    def wants_capture(self, key: Hashable) -> bool:
        """Take note of `key`; True from its second time on, when addresses have proved to come back."""
        entry = self._entries.get(key)
        if entry is not None:
            return entry.graph is None and not entry.failed
        self._entries[key] = _Entry()
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return False

    def capture(
        self, key: Hashable, device: torch.device, work: Callable[[], None], keep: object
    ) -> bool:
        """Capture `work`, which must not allocate; False, for ever, if that fails.

        The kernels must have run before: compiling and loading them is not possible while a stream is captured.
        """
        entry = self._entries.setdefault(key, _Entry())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(_side_stream(device)):
                # Other threads may use CUDA meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            entry.failed = True
            warnings.warn(f"no CUDA graph, launching kernels one by one: {error}", stacklevel=2)
            return False
        entry.graph, entry.keep = graph, keep
        return True


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The default stream cannot be captured."""
    return torch.cuda.Stream(device)
