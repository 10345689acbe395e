"""The limit for the share of videos that cannot be read, in training and in evaluation."""

import math

# The share of bad videos among fewer reads is too noisy to judge.
_MIN_READS = 20
# Tolerance above the limit, in standard deviations of the number of bad reads.
_MARGIN = 4.0


def exceeds_limit(bad: int, reads: int, max_fraction: float) -> bool:
    """Return True if at least one of `reads` is bad, and more are than `max_fraction` allows."""
    if not max_fraction:
        return True
    # Examples come in random order, so the first reads of a good set may hold many bad ones.
    margin = _MARGIN * math.sqrt(max_fraction * (1 - max_fraction) * reads)
    return reads >= _MIN_READS and bad > max_fraction * reads + margin
