"""How numbers are written in reports. Nothing here ever returns 'nan', 'inf' or 'None'."""

import math
from collections.abc import Iterable
from decimal import ROUND_FLOOR, Decimal

from harness.stats import rounded

ABSENT = "-"


def plain(value: float, decimals: int = 2) -> str:
    """Fixed decimals, rounded half up: '1.67'."""
    return str(rounded(value, decimals))


def times(value: float) -> str:
    """A speedup or ratio: '17.94x'."""
    return f"{plain(value)}x"


def span(low: float, high: float, unit: str = "") -> str:
    """A range, one number when both ends are displayed alike: '1.13-1.60x' or '1.09x'."""
    first, last = plain(low), plain(high)
    return f"{first}{unit}" if first == last else f"{first}-{last}{unit}"


def microseconds(value: float) -> str:
    """One decimal: '51.3'."""
    return plain(value, 1)


def matched(ratio: float) -> str:
    """Four decimals, cut and not rounded: 0.99996 must not read as 1, nor 0.84999 as a passing
    0.85."""
    if not math.isfinite(ratio):
        return error_size(ratio)
    return str(Decimal(f"{ratio:.12g}").quantize(Decimal("0.0001"), rounding=ROUND_FLOOR))


def error_size(value: float) -> str:
    """An absolute or relative error in three digits, in words where it is no number."""
    if math.isnan(value):
        return "not a number"
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def worst_error(values: Iterable[float | None]) -> float | None:
    """The largest error; not-a-number is worse than any; None when there is none."""
    there = [value for value in values if value is not None]
    return next((v for v in there if math.isnan(v)), max(there, default=None))


def count(number: int, noun: str) -> str:
    """'1 workload', '19 workloads'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *head, last = list(items)
    return f"{', '.join(head)} and {last}" if head else last


def shortened(items: Iterable[str], most: int = 12) -> str:
    """'a, b, c', with '... and 4 more' beyond `most`."""
    all_items = list(items)
    text = ", ".join(all_items[:most])
    return text if len(all_items) <= most else f"{text} and {len(all_items) - most} more"
