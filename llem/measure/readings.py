"""What counts as a reading of a device, and which readings are looked at together."""

from typing import Any

import numpy as np
import numpy.typing as npt

from llem.protocols import Samples

Floats = npt.NDArray[np.float64]

MAX_POWER_W = 10_000.0
"""
More than any device draws. A reading above it is none, and a counter that seems to have run faster
was reset. Unit: W.
"""

BLOCK = 4096
"""Ticks that are looked at together: with eight devices 256 KiB, which caches hold."""


def is_power(power_w: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of *power_w* a device can have read. NaN is no reading."""
    return (power_w >= 0) & (power_w <= MAX_POWER_W)


def near(samples: Samples, begin_s: float, end_s: float) -> Samples:
    """Those in the window, and one on either side of it."""
    first, last = samples.times_s.searchsorted([begin_s, end_s]).tolist()
    return samples.between(max(first - 1, 0), last + 1)
