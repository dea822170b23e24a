"""The order of very many datapoints is a permutation, like one that is drawn, and takes no memory."""

import pytest
import torch
from spy import Spy

from pyro_aevb.training import fit, minibatches
from pyro_aevb.training.computed_permutation import BLOCK, ComputedPermutation

ODD = (1, 2, 3, 5, 1000, 4095, 4096, 4097, 2**17 + 1)


def order(size, seed=0):
    return ComputedPermutation(size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", ODD)
def test_it_is_a_permutation(size):
    assert torch.equal(order(size)[:].sort().values, torch.arange(size))


def test_any_slices_give_the_same():
    whole = order(2 * BLOCK + 7)[:]
    other = order(2 * BLOCK + 7)
    for begin, end in ((5, 9), (BLOCK - 2, BLOCK + 3), (0, 3), (2 * BLOCK, 3 * BLOCK), (7, 7), (1, 2 * BLOCK)):
        assert torch.equal(other[begin:end], whole[begin:end])
    with pytest.raises(ValueError, match="a step of 2"):
        other[::2]


def chi_square(counts):
    """Return a chi-square statistic of equal cells, in its standard deviations from its mean."""
    expected = counts.double().mean()
    degrees = counts.numel() - 1
    return float(((counts - expected).square().sum() / expected - degrees) / (2 * degrees) ** 0.5)


def test_places_and_what_is_there_are_independent():
    """Over keys: whatever is in the first places.  Within one key: of a place, its neighbour, and the next pass."""
    generator, size = torch.Generator().manual_seed(0), 61
    firsts = torch.stack([ComputedPermutation(size, generator)[:3] for _ in range(600)])
    for place in range(3):
        assert abs(chi_square(torch.bincount(firsts[:, place], minlength=size))) < 4
    size = 2**16 + 11
    one, other = ComputedPermutation(size, generator)[:], ComputedPermutation(size, generator)[:]
    pairs = (
        (torch.arange(size), one),
        (one[:-1], one[1:]),
        ((one[1:] - one[:-1]) % size, one[1:]),
        (one[:-1] ^ one[1:], torch.arange(size - 1)),
        (one, other),
    )
    for a, b in pairs:
        for bits in (4, 7):  # the highest, where both are spread evenly
            cells = (a * 2**bits // size).clamp(max=2**bits - 1) * 2**bits + b * 2**bits // size
            statistic = chi_square(torch.bincount(cells, minlength=4**bits))
            assert statistic < 5 or a.max() >= size
        low = (a % 16) * 16 + b % 16
        assert chi_square(torch.bincount(low, minlength=256)) < 5


class Counted:
    """As many rows as one likes, each its own place."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index[:, None].double()


def test_a_hundred_million_rows_take_no_memory_for_their_order(monkeypatch):
    from pyro_aevb.data_source import DataSet

    monkeypatch.setattr(torch, "randperm", lambda *args, **kwargs: pytest.fail("it is drawn as a whole"))
    computed, permuted = [], ComputedPermutation._permuted
    monkeypatch.setattr(ComputedPermutation, "_permuted", lambda self, p: computed.append(len(p)) or permuted(self, p))
    feed = minibatches.Permutations(DataSet(Counted(10**8)), 100, 0, False)
    seen = torch.cat([feed.next(None, slice_all).batch.places for _ in range(1500)])
    assert len(seen.unique()) == len(seen) == 150_000
    assert feed._order._block.numel() <= BLOCK
    assert sum(computed) < len(seen) + 2 * BLOCK
    assert abs(float(seen.double().mean()) / 10**8 - 0.5) < 4 * (1 / 12 / len(seen)) ** 0.5


def slice_all(size):
    return slice(0, size)


def test_a_run_with_a_computed_order_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(minibatches, "MOST_STORED", 10)
    x = torch.arange(25.0)[:, None]

    def seen(samples, folder=None):
        spy = Spy()
        fit(
            spy, x, samples=samples, batch_size=4, checkpoint_dir=folder, resume=folder is not None,
            evaluate_at=[10**9], progress=False,
        )  # fmt: skip
        return spy.seen

    whole = seen(100)
    parts = [torch.cat(seen(samples, tmp_path)) for samples in (12, 28, 60, 100)]
    assert torch.equal(torch.cat(parts), torch.cat(whole))
    passes = torch.cat(whole).reshape(4, 25)
    assert torch.equal(passes.sort(1).values, torch.arange(25).expand(4, 25))
    assert len({tuple(one.tolist()) for one in passes}) == 4


def test_orders_that_are_drawn_stay_as_they_were():
    """Up to 2^24 datapoints: those of torch.randperm."""
    spy = Spy()
    fit(spy, torch.arange(25.0)[:, None], epochs=1, batch_size=24, progress=False)
    assert torch.equal(torch.cat(spy.seen), torch.randperm(25, generator=torch.Generator().manual_seed(0)))
