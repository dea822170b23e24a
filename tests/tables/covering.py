"""What of many combinations runs by default, with `pytest -m slow` and with `pytest -m exhaustive`."""

import collections
import itertools

import pytest


def two_by_two(cases):
    """Mark all of `cases` but some in which any two values that meet in one of `cases` still meet.

    Of the others every third is slow, the rest exhaustive.
    """
    twos = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    missing, kept = set().union(*twos.values()), set()
    while missing:
        best = max(cases, key=lambda case: len(twos[case] & missing))  # the first of the best: always the same
        kept.add(best)
        missing -= twos[best]
    others = [case for case in cases if case not in kept]
    marks = {case: pytest.mark.exhaustive if i % 3 else pytest.mark.slow for i, case in enumerate(others)}
    return [case if case in kept else pytest.param(*case, marks=marks[case]) for case in cases]


def some_partners(pairs, count=2):
    """Mark all of `pairs` slow but some in which each value still meets `count` of those it meets in `pairs`, or all.

    Among the pairs that add as much, one comes first whose values were met least: no value has all the partners.
    """
    missing = {v: min(count, n) for v, n in collections.Counter(v for pair in pairs for v in enumerate(pair)).items()}
    met, kept = collections.Counter(), set()
    while any(missing[v] > met[v] for v in missing):
        left = [pair for pair in pairs if pair not in kept]
        best = max(
            left, key=lambda p: (sum(missing[v] > met[v] for v in enumerate(p)), -sum(met[v] for v in enumerate(p)))
        )
        kept.add(best)
        met.update(enumerate(best))
    return [pair if pair in kept else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]


def in_turn(pairs, names):
    """Return all of `pairs` with all of `names`, exhaustive but for one name a pair, in turn, which is slow."""
    marks = {True: pytest.mark.slow, False: pytest.mark.exhaustive}
    return [
        pytest.param(*pair, name, marks=marks[i % len(names) == k])
        for i, pair in enumerate(pairs)
        for k, name in enumerate(names)
    ]
