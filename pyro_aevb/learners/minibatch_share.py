"""One process's part of a minibatch, and how the gradients of all parts are put together.

By Eq. (8) a minibatch of M datapoints counts N/M times, so the part of m of them counts (N/m) m/M.  The prior on theta,
which every process adds whole, then counts once, as the weights m/M sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed
from torch import Tensor

from pyro_aevb.model_guide.parameters import Parameter


@dataclass(frozen=True)
class Share:
    """One rank's part of a minibatch: the datapoints from ``begin`` to ``end`` of ``total``.

    ``sums`` says that the model's plate has no N: its loss then is a sum over the minibatch, and the parts are added up
    as they are.
    """

    begin: int
    end: int
    total: int
    sums: bool

    @property
    def weight(self) -> float:
        """The factor that this rank's loss counts with."""
        if self.sums:
            return float(self.end > self.begin)
        return (self.end - self.begin) / self.total

    @torch.no_grad()
    def combine(self, loss: Tensor, parameters: Sequence[Parameter]) -> Tensor:
        """Put the ranks' gradients together, in place, and return the loss of the whole minibatch."""
        leaves = [p.unconstrained for p in parameters if p.unconstrained.grad is not None]
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
            gradients = [leaf.grad for leaf in leaves if leaf.dtype == dtype and leaf.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients]) * self.weight
            torch.distributed.all_reduce(flat)
            for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(total.view_as(gradient))
        total = loss.detach() * self.weight
        torch.distributed.all_reduce(total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the minibatch of what ``value`` is the mean of over this part."""
        total = value.detach() * ((self.end - self.begin) / self.total)
        torch.distributed.all_reduce(total)
        return total

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of every rank, (total, ...), from this one's (end - begin, ...)."""
        result = rows.new_zeros((self.total, *rows.shape[1:]))
        result[self.begin : self.end] = rows[: self.end - self.begin]
        torch.distributed.all_reduce(result)
        return result
