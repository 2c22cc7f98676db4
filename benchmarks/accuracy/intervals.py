"""95 % intervals: of one counted error, and of the mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ulmfit_fast.interpret.statistics import wilson_interval

#: 97.5 % points of Student's t for 1 to 30 degrees of freedom.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def of_error(n_wrong: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of an error from one model on n texts."""
    low, high = wilson_interval(n - n_wrong, n)
    return 1 - high, 1 - low


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of the mean over seeds: of the training, not of the test texts.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: an interval over seeds needs two")
    quantile = T_975[len(values) - 2] if len(values) - 2 < len(T_975) else 1.96
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return middle - half, middle + half
