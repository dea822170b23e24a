"""A learner that notes what fit gives it."""

import pyro
import pyro.distributions as dist
import torch

from pyro_aevb.learners import Learner


class Info:
    """A step without a bound."""

    loss, elbo = torch.tensor(1.0), None


def model(x, *labels):
    """x ~ N(0, 1): a model that takes whatever there is."""
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape[1:]).to_event(1), obs=x.float())


class Spy(Learner):
    """A learner that notes the places of the minibatches that it is given."""

    def __init__(self, fail_at=None):
        super().__init__(model, None, {})
        self._seen, self._fail_at = [], fail_at

    @property
    def seen(self):
        return self._seen

    def parameters_of(self, optimizer):
        raise AssertionError("it has no optimizer")

    def update(self, batch, settings):
        if len(self.seen) == self._fail_at:
            raise KeyboardInterrupt
        self.note(*batch.args(), places=batch.places)
        return Info()

    def note(self, x, *labels, places):
        assert torch.equal(x[:, 0], places.to(x.dtype))
        self._seen.append(places)


DATA = torch.arange(25.0)[:, None]
