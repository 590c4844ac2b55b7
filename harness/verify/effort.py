"""How much is asked of a solution: sizes and numbers of calls by form, device and speed of execution."""

from dataclasses import dataclass
from typing import Literal

Form = Literal["full", "short"]


@dataclass(frozen=True)
class Effort:
    """Sizes and numbers of calls."""

    changing: tuple[int, ...]
    """Tokens of consecutive calls, up and down."""
    boundaries: tuple[int, ...]
    """Tokens around the edges of tiles, then what one expert may be given beyond."""
    tokens: int
    """Tokens where any number would do."""
    corner_tokens: tuple[int, ...]
    """Tokens of the routing corner cases."""
    many: int
    """Calls of the long run, each with fresh inputs."""
    loop: int
    """Calls of the timing loop whose outputs are compared."""
    burst: int
    """Calls of one burst, of which the time is taken."""
    accuracy: int
    """Largest number of tokens of a workload in the accuracy report."""


# Steps of 6%: a solution that goes wrong between two numbers of rows may do so in a narrow band, where it has chosen one kernel
# by the number of tokens and another plan by the number of tiles.
_CROWDED = tuple(round(130 * 1.06**step) for step in range(48))
_EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 127, 128, 129, 320)
EFFORTS = {
    ("full", "gpu"): Effort(
        changing=(57, 1, 901, 7, 4096, 16, 129, 2, 58, 300, 1),
        boundaries=(*range(1, 130), *_CROWDED),
        tokens=57,
        corner_tokens=(1, 57, 300),
        many=400,
        loop=50,
        burst=20,
        accuracy=1 << 20,
    ),
    ("short", "gpu"): Effort(
        changing=(57, 1, 300, 7, 2048),
        boundaries=(128, 129, 320, 1261),
        tokens=57,
        corner_tokens=(16,),
        many=60,
        loop=20,
        burst=10,
        accuracy=0,
    ),
    ("full", "cpu"): Effort(
        changing=(5, 1, 33, 2, 17, 8, 3),
        boundaries=_EDGES,
        tokens=5,
        corner_tokens=(1, 6),
        many=150,
        loop=12,
        burst=6,
        accuracy=1 << 20,
    ),
    ("short", "cpu"): Effort(
        changing=(5, 1, 9, 2),
        boundaries=(16, 33),
        tokens=3,
        corner_tokens=(2,),
        many=24,
        loop=5,
        burst=5,
        accuracy=0,
    ),
    # Triton's interpreter takes 30 to 170 ms for one token and one expert.
    ("full", "interpreter"): Effort(
        changing=(4, 1, 7, 2),
        boundaries=(1, 2, 3, 15, 16, 17),
        tokens=2,
        corner_tokens=(1, 2),
        many=30,
        loop=4,
        burst=2,
        accuracy=14,
    ),
    ("short", "interpreter"): Effort(
        changing=(2, 1, 3),
        boundaries=(17,),
        tokens=2,
        corner_tokens=(1,),
        many=6,
        loop=2,
        burst=1,
        accuracy=0,
    ),
}


def effort_for(form: Form, on_gpu: bool, language: str) -> Effort:
    """What is asked of a solution in `language`."""
    place = "gpu" if on_gpu else "interpreter" if language == "triton" else "cpu"
    return EFFORTS[form, place]
