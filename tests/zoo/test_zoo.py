"""Every variant of Pyro's examples under features in turns; ``-m exhaustive`` runs all of them under all."""

import warnings

import pytest

from zoo import ENTRIES
from zoo.features import FEATURES, letter, outcome

SLOW = {"wake-sleep", "reweighted", "mcem", "graph", "fit"}  # these take the longest
QUICK = [feature for feature in FEATURES if feature not in SLOW]


def _turns():
    """Return all pairs; each variant has one of the quick features by default, every fifth one a slower one besides."""
    slow = sorted(SLOW)
    for i, name in enumerate(ENTRIES):
        chosen = {QUICK[i % len(QUICK)]} | ({slow[i // 5 % len(slow)]} if i % 5 == 0 else set())
        for feature in FEATURES:
            yield pytest.param(name, feature, marks=[] if feature in chosen else [pytest.mark.exhaustive])


@pytest.mark.parametrize(("name", "feature"), list(_turns()))
def test_a_variant_works_or_says_why_not(name, feature):
    entry = ENTRIES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's, of guides and plates
        found, note = outcome(entry, feature)
    assert letter(entry, feature, found, note) in ".s-", f"{found}: {note}"


def test_most_variants_work_under_every_feature_that_makes_sense():
    whole = [name for name, entry in ENTRIES.items() if not entry.lacks]
    assert len(ENTRIES) >= 56
    assert len(whole) >= len(ENTRIES) - 2, "what a variant lacks may only become less"


@pytest.mark.parametrize(
    ("found", "note", "expected"),
    [
        ("works", "", "."),
        ("refused", "expected another thing", "R"),
        ("WRONG", "expected Pyro's loss 1.0, got 2.0", "X"),
    ],
)
def test_an_outcome_that_nobody_lists_is_seen(found, note, expected):
    entry = ENTRIES["vae, Gaussian"]
    assert letter(entry, "svi", found, note) == expected
    listed = entry._replace(senseless={"svi": "expected a guide"})
    assert letter(listed, "svi", "works", "") == letter(listed, "svi", "refused", "expected a model") == "R"
    assert letter(listed, "svi", "refused", "expected a guide without") == "s"
