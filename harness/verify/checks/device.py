"""Streams and memory of the GPU."""

from harness.verify.exam import Exam, Failed

MEMORY_CALLS = 1000
MEMORY_SLACK = 8 << 20  # bytes; a leak of one small tensor a call is far more


def current_stream(exam: Exam) -> str:
    """All work lies on the current stream: inputs arrive and outputs are copied in stream order alone."""
    return _streams(exam, "current", 1, rounds=4)


def side_stream(exam: Exam) -> str:
    """The same on a stream that is not the default one."""
    return _streams(exam, "side", 1, rounds=4)


def two_streams(exam: Exam) -> str:
    """Calls on two streams, interleaved, with different numbers of tokens."""
    return _streams(exam, "two", 2, rounds=8)


def _streams(exam: Exam, mode: str, slots: int, rounds: int) -> str:
    names = [f"{mode}-{index}" for index in range(slots)]
    for index, name in enumerate(names):
        exam.inputs(name, exam.case(exam.effort.tokens + 100 * index, "streams", mode))
    file = exam.session.file()
    exam.session.ask("streams", slots=names, file=file, mode=mode, rounds=rounds)
    calls = rounds * slots  # not what the child says
    for call in range(calls):
        slot = names[call % slots]
        early = exam.take(f"{file}-{call}-early", slot)
        late = exam.take(f"{file}-{call}-late", slot)
        exam.require(late, slot, f"call {call + 1}, after the device was synchronised")
        exam.require(early, slot, f"call {call + 1}, copied on the stream at return")
    return f"{calls} calls"


def device_memory(exam: Exam) -> str:
    """Memory in use is steady over 1,000 calls."""
    exam.inputs("memory", exam.case(1, "memory", routing="half_local"))
    grown = _grown(exam)
    if grown["device"] > MEMORY_SLACK:  # once more: that counts every process on the device
        grown = _grown(exam)
    for kind, where in (("torch", "torch's allocator"), ("device", "the device")):
        if grown[kind] > MEMORY_SLACK:
            raise Failed(
                f"memory in use by {where} grew by {grown[kind] >> 20} MiB over {MEMORY_CALLS * 9 // 10} calls"
            )
    return f"steady over {MEMORY_CALLS} calls"


def _grown(exam: Exam) -> dict[str, int]:
    """Bytes by which memory in use grew, by who counts them."""
    found = exam.session.ask("memory", slot="memory", calls=MEMORY_CALLS)
    return {kind: found["after"][kind] - found["before"][kind] for kind in ("torch", "device")}
