"""Every output of many different calls is right."""

from harness.verify.exam import Exam


def fresh_inputs(exam: Exam) -> str:
    """New contents at new addresses in every call, at one number of tokens."""
    calls = 4
    for index in range(calls):
        routing = "random" if index % 2 else "half_local"
        case = exam.case(
            exam.effort.tokens, "fresh", index, routing=routing, factor=(2.5, 1.0)[index // 2 % 2]
        )
        exam.fresh(case, f"call {index + 1}")
    return f"{calls} calls"


def changing_tokens(exam: Exam) -> str:
    """T goes up and down, so that buffers sized for one call meet another."""
    for index, tokens in enumerate(exam.effort.changing):
        routing = "all_local" if index % 3 == 1 else "random"
        exam.fresh(exam.case(tokens, "changing", index, routing=routing), f"call {index + 1}")
    return "T=" + ", ".join(map(str, exam.effort.changing))


def unwritten_rows(exam: Exam) -> str:
    """Outputs, and memory that was free before the call, hold NaN: rows that are not written show."""
    tokens = exam.effort.tokens + 1
    for routing in ("half_local", "no_local"):
        exam.fresh(exam.case(tokens, "unwritten", routing=routing), "output pre-filled with NaN")
    return "half of the tokens, and all, without a local expert"


def tile_boundaries(exam: Exam) -> str:
    """T, and the rows of one expert, around every multiple of a tile's edge and far beyond; every token has a local expert."""
    for tokens in exam.effort.boundaries:
        exam.fresh(exam.case(tokens, "boundaries", routing="one_expert"), "tile boundary")
    first, last = exam.effort.boundaries[0], exam.effort.boundaries[-1]
    sizes = len(exam.effort.boundaries)
    return f"{sizes} sizes from T={first} to {last}" if sizes > 1 else f"T={first}"


def many_calls(exam: Exam) -> str:
    """Hundreds of calls, fresh inputs in each, every output compared."""
    for index in range(exam.effort.many):
        # Mostly few, for the number of calls; now and then as many as the routing corners have.
        tokens = exam.effort.corner_tokens[-1] if index % 20 == 19 else 1 + index % 2
        case = exam.case(tokens, "many", index, routing="half_local")
        exam.fresh(case, f"call {index + 1} of {exam.effort.many}")
    return f"{exam.effort.many} calls"


def timing_loop(exam: Exam) -> str:
    """The pattern of a timing loop: clones of one input, many calls, and every output compared."""
    # Not random: with few tokens none might have a local expert, and an output of zeros would be right.
    case = exam.case(exam.effort.tokens, "loop", routing="half_local")
    exam.inputs("loop", case)
    file = exam.session.file()
    calls = exam.effort.loop
    exam.session.ask("loop", slot="loop", file=file, warmup=3, calls=calls)
    outputs = exam.take(file, "loop", calls).view(calls, case.tokens, -1)
    for index, output in enumerate(outputs):
        exam.require(output, "loop", f"call {index + 1} of {calls} of the loop")
    return f"{calls} calls"


def after_timing(exam: Exam) -> str:
    """Fresh inputs after all loops: whoever computes only until it is timed is found here."""
    for index in range(3):
        case = exam.case(exam.effort.tokens, "after", index, routing="half_local")
        exam.fresh(case, "after the timing loops")
    return "3 calls"
