"""Nothing is remembered between calls that the next call's contents contradict."""

import time

import torch

from harness.verify.exam import Exam, Failed
from harness.verify.inputs import ACTIVATION_NAMES, WEIGHT_NAMES, checksum

REPEAT_ERROR = 0.02
"""Largest relative L2 difference of a token between two identical calls. The order of additions moves a bfloat16 by its last
bit (0.004) and flips single FP8 roundings; noise that a tolerance would let pass is far larger."""
MEMO_RATIO = 0.7  # identical contents may not be this much faster than fresh ones
MEMO_ROUNDS = 4
MEMO_TRIES = 3  # a busy host can halve the one time or the other, but not every time


def same_address(exam: Exam) -> str:
    """New activations in the same tensors."""
    calls = 3
    for index in range(calls):
        case = exam.case(exam.effort.tokens, "same", index, routing="half_local")
        exam.inputs("same", case, in_place=index > 0)
        exam.right("same", "new contents at the same addresses")
    return f"{calls} calls"


def small_change(exam: Exam) -> str:
    """One row of one input changes, everything else stays: what stands for contents must take in all of them."""
    tokens = exam.effort.tokens
    case = exam.case(tokens, "small", routing="half_local")
    exam.inputs("small", case)
    exam.right("small", "before a small change")
    even = range(0, tokens, 2)  # have local experts
    halves = [half for half in (even[: len(even) // 2], even[len(even) // 2 :]) if half]
    for name in ("hidden_states", "hidden_states_scale", "routing_logits"):
        for index, half in enumerate(halves):  # a sample of the first rows sees the first change
            row = half[exam.seeds.of("row", name, index) % len(half)]
            case = case.edited(name, row, exam.seeds.of("edit", name, index))
            exam.inputs("small", case, in_place=True)
            exam.right("small", f"one row of {name} changed")
    # Of every other expert: a single one would seldom change a choice.
    for expert in range(0, exam.references.sizes.experts, 2):
        case = case.edited("routing_bias", expert, exam.seeds.of("edit", "bias", expert))
    exam.inputs("small", case, in_place=True)
    exam.right("small", "the bias changed")
    return "hidden states, scales, logits, bias"


def weights_in_place(exam: Exam) -> str:
    """Weights get new contents at the same addresses: all of them, then one row of one expert."""
    exam.inputs("weights", exam.case(exam.effort.tokens, "weights", routing="half_local"))
    exam.right("weights", "before the weights change")
    old = exam.weights
    exam.set_weights(type(old)(exam.seeds.of("other weights")), in_place=True)
    exam.right("weights", "all weights changed in place")
    exam.inputs("weights", exam.case(exam.effort.tokens, "weights2", routing="one_expert"))
    exam.right("weights", "before one row of the weights changes")
    exam.set_weights(
        exam.weights.edited("gemm1_weights_scale", 5, exam.seeds.of("w")), in_place=True
    )
    exam.right("weights", "one row of W13's scales changed in place")
    exam.set_weights(
        exam.weights.edited("gemm2_weights_scale", 5, exam.seeds.of("v")), in_place=True
    )
    exam.right("weights", "one row of W2's scales changed in place")
    for index, name in enumerate(("gemm1_weights", "gemm2_weights")):
        exam.set_weights(exam.weights.edited(name, 5, exam.seeds.of("e", index)), in_place=True)
        exam.right("weights", f"an eighth of one expert's {name} changed in place")
    exam.set_weights(old, in_place=True)
    return "all weights, then single rows of scales and an eighth of one expert"


def new_address(exam: Exam) -> str:
    """The same contents elsewhere, while other contents lie at the old addresses."""
    exam.inputs("move", exam.case(exam.effort.tokens, "move", routing="half_local"))
    for _ in range(3):  # whoever keeps something by address has it by now
        exam.right("move", "before the move")
    exam.session.ask("move", slot="move", weights_too=False)
    exam.right("move", "same activations at new addresses")
    exam.session.ask("move", slot="move", weights_too=True)
    kept = exam.slots["move"]
    exam.right("move", "same weights at new addresses")
    exam.slots = {"move": kept}
    return "activations, then weights"


def inputs_unchanged(exam: Exam) -> str:
    """Inputs are the same after the call, at a few tokens and at many, and a second call on them is right, too."""
    sizes = (exam.effort.tokens, max(exam.effort.changing))
    for tokens in sizes:
        case = exam.case(tokens, "unchanged", routing="half_local")
        exam.inputs("unchanged", case)
        exam.right("unchanged", "first call")
        file = exam.session.file()
        exam.session.ask("dump_inputs", slot="unchanged", file=file, names=ACTIVATION_NAMES)
        for name, tensor in exam.references.activations(case).items():
            found = exam.session.read(f"{file}-{name}", torch.uint8)
            if not torch.equal(found, tensor.view(torch.uint8).flatten().cpu()):
                raise Failed(f"{case.what}: the call changed its input {name}")
        seed = exam.seeds.of("checksum")
        answer = exam.session.ask("checksums", slot="unchanged", names=WEIGHT_NAMES, seed=seed)
        for name, tensor in exam.references.weights(exam.weights).tensors.items():
            if answer["sums"].get(name) != checksum(tensor, seed):
                raise Failed(f"{case.what}: the call changed its input {name}")
        exam.right("unchanged", "second call on the same inputs")
    return f"activations compared byte by byte, weights by checksum, at T={sizes[0]} and {sizes[1]}"


def repeat(exam: Exam) -> str:
    """An identical call gives an equal output; whether to the last bit is reported."""
    exam.inputs("repeat", exam.case(exam.effort.tokens, "repeat", routing="half_local"))
    first = exam.right("repeat", "first call")
    worst, bitwise = 0.0, True
    for _ in range(3):
        again = exam.right("repeat", "identical call")
        bitwise = bitwise and torch.equal(first.view(torch.int16), again.view(torch.int16))
        a, b = first.double(), again.double()
        difference = (a - b).norm(dim=1) / a.norm(dim=1).clamp(min=1e-30)
        worst = max(worst, float(difference.max()))
    if worst > REPEAT_ERROR:
        raise Failed(
            f"identical calls differ by {worst:.1%} in the L2 norm of a token; {REPEAT_ERROR:.0%} may be rounding"
        )
    return "equal bit by bit" if bitwise else f"not equal bit by bit: up to {worst:.2%} in L2 norm"


def memoised(exam: Exam) -> str:
    """Calls on contents that stay take as long as calls on contents that change; the parent's clock says so."""
    exam.inputs("memo", exam.case(exam.effort.tokens, "memo", routing="half_local"))
    exam.right("memo", "before the bursts")
    calls = exam.effort.burst
    for _ in range(MEMO_TRIES):
        same, fresh = _burst_times(exam, calls)
        if same >= MEMO_RATIO * fresh:
            break
    # The bursts changed the weights and their scales: bring them back.
    exam.set_weights(exam.weights, in_place=True)
    if same < MEMO_RATIO * fresh:
        raise Failed(
            f"a call on contents seen before takes {same / calls * 1e3:.2f} ms, on new ones {fresh / calls * 1e3:.2f} ms: "
            "results are kept by contents"
        )
    return f"same contents {same / fresh:.2f} of the time of fresh ones"


def _burst_times(exam: Exam, calls: int) -> tuple[float, float]:
    """Seconds of the shortest of several bursts of calls on slot `memo`: on contents that stay, and on contents that change."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for fresh in [*times] * MEMO_ROUNDS:
        start = time.perf_counter()
        exam.session.ask("burst", slot="memo", calls=calls, fresh=fresh)
        times[fresh].append(time.perf_counter() - start)
    return min(times[False]), min(times[True])
