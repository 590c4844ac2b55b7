"""Drawings compared up to rounding: a coordinate that lies between two of its last digits falls to either side, by processor."""

import re

NUMBER = re.compile(r"-?\d+\.\d+")
LAST_DIGIT = 1.01e-6  # matplotlib writes six decimals


def alike(drawn: str, kept: str) -> bool:
    """Whether two texts differ by no more than one in the sixth decimal of their numbers."""
    pairs = zip(NUMBER.findall(drawn), NUMBER.findall(kept), strict=False)
    return NUMBER.split(drawn) == NUMBER.split(kept) and all(
        a == b or abs(float(a) - float(b)) <= LAST_DIGIT for a, b in pairs
    )
