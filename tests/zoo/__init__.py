"""Small variants of Pyro's examples and tutorials, one file a family."""

from zoo import counts, factors, guides, labels, mixtures, plates, regressions, sequences, vaes

FAMILIES = (vaes, labels, mixtures, sequences, counts, regressions, factors, guides, plates)
ENTRIES = {entry.name: entry for family in FAMILIES for entry in family.ENTRIES}
