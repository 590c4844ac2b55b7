"""Whether latencies are possible and two timers agree on them."""

import statistics
import time
from contextlib import suppress

from harness.verify.exam import Exam, Failed, NotApplicable
from harness.verify.stage import FLOOR_SHARE

AGREEMENT = 1.6
"""flashinfer-bench's mean may be this many times our median, or the inverse; the two flush and clone in another order."""
SLACK_US = 25.0  # of host noise, which weighs on small batches
TIMED_CALLS = 30
CLOCKED_CALLS = (50, 1000)
"""At least and at most, by the parent's clock."""
CLOCKED_US = 5e5
"""As many calls by the parent's clock as take this long, within those limits."""


def latency_floor(exam: Exam) -> str:
    """Cold calls are not faster than this GPU can read the weights that they need."""
    if not exam.floor_us:
        raise NotApplicable("the ceilings of this GPU are not known")
    said = []
    for tokens, floor in sorted(exam.floor_us.items()):
        median = _own_timer(exam, tokens)
        said.append(f"T={tokens} {median:.1f} us, {median / floor:.2f}x the floor")
        if median < FLOOR_SHARE * floor:
            raise Failed(
                f"T={tokens}: {median:.1f} us a call is {median / floor:.2f} of the floor of {floor:.1f} us"
            )
    return "; ".join(said)


def timers_agree(exam: Exam) -> str:
    """flashinfer-bench's timer, our events, CUPTI and the parent's clock tell one story, in one of three attempts."""
    for _ in range(2):  # one pause of the host in a mean of thirty calls is no lie
        with suppress(Failed):
            return _agreement(exam)
    return _agreement(exam)


def _agreement(exam: Exam) -> str:
    tokens = exam.effort.tokens
    own = _own_timer(exam, tokens)
    theirs = (
        1e3
        * exam.session.ask("time_flashinfer_bench", slot="timed", warmup=5, calls=TIMED_CALLS)["ms"]
    )
    if not own - SLACK_US <= AGREEMENT * theirs or not theirs - SLACK_US <= AGREEMENT * own:
        raise Failed(
            f"T={tokens}: flashinfer-bench's timer says {theirs:.1f} us, cold events {own:.1f} us"
        )
    clock = _parent_clock(exam, own)
    if clock <= 0:
        raise Failed(f"T={tokens}: by the parent's clock few calls took longer than many")
    # Warm calls may be faster than cold ones; slower is time that the events did not see.
    if clock > AGREEMENT * max(own, theirs) + 3 * SLACK_US:
        raise Failed(
            f"T={tokens}: the parent's clock counts {clock:.1f} us a call, events {own:.1f} us"
        )
    busy = exam.session.ask("time_cupti", slot="timed", calls=5)["us"]
    # Without a kernel in it, it is no record of these calls: a driver may deny it kernels.
    cupti = f"kernels by CUPTI {busy:.1f}" if busy else "no kernels by CUPTI here"
    if busy and busy > AGREEMENT * own + SLACK_US:
        raise Failed(f"T={tokens}: CUPTI sees kernels for {busy:.1f} us, events {own:.1f} us")
    return f"T={tokens}, us: flashinfer-bench {theirs:.1f}, cold events {own:.1f}, parent's clock {clock:.1f}, {cupti}"


def _own_timer(exam: Exam, tokens: int) -> float:
    """Median microseconds of cold calls; their outputs are compared, too."""
    exam.inputs("timed", exam.case(tokens, "timed", routing="half_local"))
    file = exam.session.file()
    found = exam.session.ask("time", slot="timed", warmup=5, calls=TIMED_CALLS, file=file)["ms"]
    outputs = exam.take(file, "timed", TIMED_CALLS).view(TIMED_CALLS, tokens, -1)
    for index, output in enumerate(outputs):
        exam.require(output, "timed", f"timed call {index + 1}")
    return 1e3 * statistics.median(found)


def _parent_clock(exam: Exam, expected_us: float) -> float:
    """Microseconds a call by the parent's clock: the difference of many and a few, since starting and ending is in both."""
    least, most = CLOCKED_CALLS
    calls = round(min(max(CLOCKED_US / max(expected_us, 1.0), least), most))
    few = calls // 10
    taken = []
    for number in (few, few + calls):
        start = time.perf_counter()
        exam.session.ask("calls", slot="timed", calls=number)
        taken.append(time.perf_counter() - start)
    return 1e6 * (taken[1] - taken[0]) / calls
