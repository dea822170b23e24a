"""What of many combinations runs by default; `pytest -m slow` runs the others."""

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
