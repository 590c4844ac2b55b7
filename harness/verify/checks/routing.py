"""Corner cases of routing, as inputs."""

from harness.verify.cases import SCALES, Weights
from harness.verify.exam import Exam

OFFSETS = (0, 1, 77, 200, 224)


def routing_corners(exam: Exam) -> str:
    """No local token, every pair on one expert, all eight experts local, tokens with and without local experts."""
    routings = ("no_local", "one_expert", "all_local", "half_local")
    for tokens in exam.effort.corner_tokens:
        for routing in routings:
            exam.fresh(exam.case(tokens, "corner", routing=routing), "routing corner")
    return f"{', '.join(routings)} at T={', '.join(map(str, exam.effort.corner_tokens))}"


def offsets(exam: Exam) -> str:
    """First local experts at both ends and at no multiple of 32."""
    for offset in OFFSETS:
        case = exam.case(
            exam.effort.corner_tokens[-1], "offset", offset=offset, routing="half_local"
        )
        exam.fresh(case, "offset")
    return ", ".join(map(str, OFFSETS))


def ties(exam: Exam) -> str:
    """Equal scores: any valid choice is right, anything else is not."""
    tokens = exam.effort.corner_tokens[-1]
    for routing in ("tie_experts", "tie_groups"):
        for offset in (32, 77):
            case = exam.case(tokens, "ties", offset=offset, routing=routing)
            exam.fresh(case, "tied scores")
    # With all scores equal the valid choices cannot be listed; with all experts equal only their number matters.
    old = exam.weights
    exam.set_weights(Weights(exam.seeds.of("equal"), equal=True), in_place=True)
    exam.fresh(exam.case(tokens, "ties", offset=0, routing="tie_all"), "all scores equal")
    exam.set_weights(old, in_place=True)
    return (
        "an eighth place shared by four experts, a fourth group's by three groups, all scores equal"
    )


def extreme_logits(exam: Exam) -> str:
    """Logits of +-80, and biases that outweigh every score."""
    tokens = exam.effort.corner_tokens[-1]
    routings = ("saturated", "all_low", "large_bias")
    for routing in routings:
        exam.fresh(exam.case(tokens, "extreme", routing=routing), "extreme logits or bias")
    return ", ".join(routings)


def extreme_scales(exam: Exam) -> str:
    """Block scales of 1e-8 and 1e4, of both within a token, and negative ones."""
    for scales in SCALES[1:]:
        case = exam.case(
            exam.effort.corner_tokens[-1], "scales", routing="half_local", scales=scales
        )
        exam.fresh(case, "extreme scales")
    return ", ".join(SCALES[1:])
