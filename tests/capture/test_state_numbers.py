"""Python states get numbers: another value, another number, unless it goes on changing."""

import torch
from torch import nn

from pyro_aevb.capture import PythonState, StateNumbers


class Pair:
    def __init__(self):
        self.deep, self.weight, self.net, self.left = False, 0.0, nn.Linear(1, 1), []

    def model(self, x):
        return self.net(x) * self.weight if self.deep else self.left


def watched():
    pair = Pair()
    state, numbers = PythonState([pair.model]), StateNumbers()
    return pair, lambda: numbers.of(state)


def test_another_value_is_another_state_and_an_earlier_one_is_known_again():
    pair, number = watched()
    first = number()
    assert number() == first
    pair.deep = True
    second = number()
    pair.net = nn.Linear(1, 1)
    assert len({first, second, number()}) == 3
    pair.deep, pair.other = False, 1  # there is more to watch
    assert number() > second
    del pair.other
    assert number() > second  # with the other net


def test_a_value_that_goes_on_changing_no_longer_tells_states_apart_but_others_do():
    pair, number = watched()
    found = set()
    for i in range(200):
        pair.weight, pair.net = float(i), nn.Linear(1, 1)
        pair.left.append(torch.ones(1))
        found.add(number())
    assert len(found) < 20
    pair.deep = True
    assert number() not in found
    pair.deep = False
    assert number() in found
