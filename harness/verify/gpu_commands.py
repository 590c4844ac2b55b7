"""What a child is asked for on a GPU alone: races between streams, memory, and time by several clocks."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from flashinfer_bench.bench import timing

from harness.verify.caller import Caller
from harness.verify.inputs import ACTIVATION_NAMES
from harness.verify.protocol import Message

FLUSH_BYTES = 256 << 20  # more than any L2


class GpuCommands(Caller):
    """Commands that need a GPU."""

    def do_streams(self, slots: list[str], file: str, mode: str, rounds: int) -> Message:
        """Calls whose inputs arrive in stream order only, with outputs copied in stream order at once.

        The tensors hold wrong contents until copies that are queued behind a long kernel restore them, so work on any other
        stream, or read on the host, sees the wrong ones. For each call two outputs are written: a copy taken on the stream
        at return, and the output itself after everything ended.

        Args:
            mode: `current`: on the default stream; `side`: on another one; `two`: alternating between two.
        """
        current = torch.cuda.current_stream()
        streams = [current] if mode == "current" else [torch.cuda.Stream() for _ in slots]
        right = [{name: self._named(s)[name].clone() for name in ACTIVATION_NAMES} for s in slots]
        pairs: list[list[torch.Tensor]] = []
        for slot in slots:
            self._invoke(
                self.slots[slot], poison=False
            )  # compiled and cached before the race begins
        # Every other call writes to one and the same output, so that what is kept by address, such as a graph, runs as well.
        again = [self._poisoned(self.slots[slot]) for slot in slots]
        self._sync()
        for round_ in range(rounds):
            for index, slot in enumerate(slots):
                stream = streams[index % len(streams)]
                names = dict(zip(self._order(), self.slots[slot], strict=False))
                stored = right[index]
                if round_ == 0:
                    for name in ACTIVATION_NAMES:
                        names[name].view(torch.uint8).bitwise_xor_(0x80)
                    self._sync()
                with torch.cuda.stream(stream):
                    if round_ == 0:
                        torch.cuda._sleep(20_000_000)  # about ten milliseconds
                        for name in ACTIVATION_NAMES:
                            names[name].view(torch.uint8).copy_(stored[name].view(torch.uint8))
                    given = again[index] if round_ % 2 else None
                    output, _ = self._invoke(self.slots[slot], poison=True, given=given)
                    pairs.append([output.clone(), output if given is None else output.clone()])
        self._sync()
        for index, (early, late) in enumerate(pairs):
            self._dump(f"{file}-{index}-early", early)
            self._dump(f"{file}-{index}-late", late)
        return {}

    def do_memory(self, slot: str, calls: int) -> Message:
        """Bytes in use on the device after a tenth of `calls` calls and after all of them."""
        for index in range(calls):
            if index == calls // 10:
                self._sync()
                before = self._in_use()
            self._invoke(self.slots[slot], poison=False)
        self._sync()
        return {"before": before, "after": self._in_use()}

    def do_time(self, slot: str, warmup: int, calls: int, file: str) -> Message:
        """Milliseconds of each call between events, inputs cloned and then L2 flushed; the outputs are written."""
        flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.device)
        shape = self._named(slot)["hidden_states"].shape
        kept = torch.empty((calls, *shape), dtype=torch.bfloat16, device=self.device)
        times = []
        for index in range(warmup + calls):
            args = [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[slot]]
            args.append(self._poisoned(args))
            flush.fill_(index % 100)
            self._sync()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            output = self._raw(args)
            end.record()
            self._sync()
            if index >= warmup:
                times.append(start.elapsed_time(end))
                kept[index - warmup].copy_(output)
        self._sync()
        self._dump(file, kept)
        return {"ms": times}

    def do_time_flashinfer_bench(self, slot: str, warmup: int, calls: int) -> Message:
        """Mean milliseconds of a call by flashinfer-bench's own timer."""
        args = list(self.slots[slot])
        if self.runnable.metadata.destination_passing_style:
            args.append(self._poisoned(args))
        return {"ms": timing.time_runnable(self.runnable, args, warmup, calls, self.device)}

    def do_time_cupti(self, slot: str, calls: int) -> Message:
        """Mean microseconds of a call during which a kernel ran, by CUPTI through torch's profiler; None without it."""
        # Not torch.profiler's: that imports torch._inductor, which replaces torch.manual_seed and takes seconds.
        from torch.autograd.profiler import profile

        args = [v.clone() if isinstance(v, torch.Tensor) else v for v in self.slots[slot]]
        args.append(self._poisoned(args))
        self._sync()
        # Once for all calls: starting and ending it takes seconds.
        recorder = profile(use_cpu=False, use_device="cuda", use_kineto=True)
        try:
            recorder.__enter__()
        except (RuntimeError, AssertionError):
            # CUPTI is absent, in use elsewhere or not permitted here.
            return {"us": None}
        with ExitStack() as running:
            running.push(recorder)  # entered already, so that what a call raises is the call's
            for _ in range(calls):
                self._raw(args)
                self._sync()
        events = recorder.function_events or []
        return {"us": covered(kernel_ranges(events)) / calls}


def kernel_ranges(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Begin and end, in microseconds, of what a profile saw on the device."""
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == "CUDA"
    ]


def covered(ranges: list[tuple[float, float]]) -> float:
    """Length of the union of `ranges`: kernels may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
