"""The checks, one module per family, and the list of them all.

A check takes an `Exam`, raises `Failed` with what it found, and otherwise returns what it did, in a few words.
"""

from collections.abc import Callable
from dataclasses import dataclass

from harness.verify.checks import conduct, device, reuse, routing, speed, values
from harness.verify.exam import Exam


@dataclass(frozen=True)
class Check:
    """One check by its name."""

    name: str
    run: Callable[[Exam], str]
    in_short: bool = False
    """Part of the short form, too."""
    needs_gpu: bool = False
    alone: bool = False
    """It goes by a clock, by processes or by what the device holds, so that nothing else may be at work meanwhile."""


CHECKS = (
    Check("fresh_inputs", values.fresh_inputs, in_short=True),
    Check("changing_tokens", values.changing_tokens, in_short=True),
    Check("unwritten_rows", values.unwritten_rows, in_short=True),
    Check("same_address", reuse.same_address, in_short=True),
    Check("small_change", reuse.small_change, in_short=True),
    Check("new_address", reuse.new_address, in_short=True),
    Check("inputs_unchanged", reuse.inputs_unchanged, in_short=True),
    Check("repeat", reuse.repeat, in_short=True),
    Check("routing_corners", routing.routing_corners),
    Check("offsets", routing.offsets, in_short=True),
    Check("ties", routing.ties),
    Check("extreme_logits", routing.extreme_logits),
    Check("extreme_scales", routing.extreme_scales),
    Check("tile_boundaries", values.tile_boundaries, in_short=True),
    Check("many_calls", values.many_calls, in_short=True),
    Check("timing_loop", values.timing_loop, in_short=True),
    Check("weights_in_place", reuse.weights_in_place, in_short=True),
    Check("memoised", reuse.memoised, in_short=True, alone=True),
    Check("current_stream", device.current_stream, in_short=True, needs_gpu=True, alone=True),
    Check("side_stream", device.side_stream, needs_gpu=True, alone=True),
    Check("two_streams", device.two_streams, needs_gpu=True, alone=True),
    Check("device_memory", device.device_memory, needs_gpu=True, alone=True),
    Check("latency_floor", speed.latency_floor, needs_gpu=True, alone=True),
    Check("timers_agree", speed.timers_agree, needs_gpu=True, alone=True),
    Check("after_timing", values.after_timing, in_short=True),
    Check("contract", conduct.contract, in_short=True),
    Check("threads", conduct.threads, in_short=True, alone=True),
    Check("patched", conduct.patched, in_short=True),
)
"""In the order in which they run: what later ones see, earlier ones have brought about."""
