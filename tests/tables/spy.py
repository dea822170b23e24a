"""A learner that notes what fit gives it."""

import torch


class Spy:
    """A learner that notes what it is given."""

    def __init__(self, fail_at=None):
        self.seen, self.rates, self.optimizers, self.fail_at = [], [], {}, fail_at

    compile_seconds = 0.0

    def configure(self, **options):
        pass

    def prepare(self, x):
        pass

    def step(self, x, index):
        assert torch.equal(x[:, 0], index.to(x.dtype))
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(index)
        return type("Info", (), {"loss": torch.tensor(1.0)})()


DATA = torch.arange(25.0)[:, None]
