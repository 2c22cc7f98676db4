"""Intervals for counted results."""

from __future__ import annotations

import math

Z_95 = 1.959964  # standard deviations that 95 % of a normal distribution lie within


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share from n_right of n independent trials.

    Source: Wilson 1927, JASA 22, 209-212: unlike the normal interval it is right for shares near
    0 and 1, and never leaves [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    share = n_right / n
    scale = 1 + Z_95**2 / n
    middle = (share + Z_95**2 / (2 * n)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
