"""Print what works for which variant: python tests/zoo/matrix.py [words of variants or features].

A letter a feature: . works, s refused and makes no sense, - refused and is lacking, R refused otherwise, X wrong.
"""

import sys
import warnings
from collections import Counter
from pathlib import Path

import pyro
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from zoo import ENTRIES  # noqa: E402  # where they are is said above
from zoo.features import FEATURES, letter, outcome  # noqa: E402


def main(words):
    warnings.simplefilter("ignore")
    pyro.enable_validation(True)
    torch.set_num_threads(1)
    features = [f for f in FEATURES if f in words] or list(FEATURES)
    words = [word for word in words if word not in FEATURES]
    count, whole = Counter(), 0
    print("features, from left to right:", ", ".join(features), flush=True)
    for name, entry in ENTRIES.items():
        if words and not any(word in name for word in words):
            continue
        row, notes = "", []
        for feature in features:
            found, note = outcome(entry, feature)
            row += letter(entry, feature, found, note)
            if row[-1] not in ".":
                notes.append(f"      {row[-1]} {feature}: {note}")
            elif "runs eagerly" in note:
                notes.append(f"        {feature} {note}")
        count.update(row)
        whole += set(row) <= {".", "s"}
        print(f"{row}  {name}", *notes, sep="\n", flush=True)
    print(f"{whole} variants work under every feature that makes sense; by letter: {dict(count)}")


if __name__ == "__main__":
    main(sys.argv[1:])
