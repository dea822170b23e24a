"""What of many combinations runs by default; `pytest -m slow` runs the others."""

import collections
import itertools

import pytest


def two_by_two(cases):
    """Mark all of `cases` slow but some in which any two values that meet in one of `cases` still meet."""
    twos = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    missing, kept = set().union(*twos.values()), set()
    while missing:
        best = max(cases, key=lambda case: len(twos[case] & missing))  # the first of the best: always the same
        kept.add(best)
        missing -= twos[best]
    return [case if case in kept else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def two_partners(pairs):
    """Mark all of `pairs` slow but some in which each value still meets two of those it meets in `pairs`, or its one.

    The values are met in turn, not all of them with the first two.
    """
    meetings = collections.Counter(value for pair in pairs for value in enumerate(pair))
    missing = {value: min(2, count) for value, count in meetings.items()}
    kept = set()
    while any(missing.values()):
        best = max((p for p in pairs if p not in kept), key=lambda pair: sum(missing[v] for v in enumerate(pair)))
        kept.add(best)
        for value in enumerate(best):
            missing[value] = max(0, missing[value] - 1)
    return [pair if pair in kept else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]
