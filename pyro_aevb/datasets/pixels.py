"""Grey pixels as ones and zeros: by a threshold, drawn once, or drawn anew at each visit."""

from __future__ import annotations

import torch
from torch import Tensor

PIXELS = ("grey", "threshold", "static", "dynamic")


class Binarized:
    """Images whose pixels are drawn from Bernoulli(pixel) anew at each visit.

    Args:
        images: (N, D), in [0, 1], a tensor or :class:`ScaledRows`; on a GPU, pixels are drawn there.

    >>> from pyro_aevb.datasets import Binarized
    >>> data = Binarized(torch.tensor([[0.0, 1.0, 0.5]]))
    >>> data[torch.tensor([0, 0])][:, :2].tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.draw(self.rows(index))

    @property
    def device(self) -> torch.device:
        """Where the images lie, and indices belong."""
        return self.images.device

    def to(self, device: torch.device | str) -> Binarized:
        """Return the data set with its images on a device."""
        return Binarized(self.images.to(device))

    def rows(self, index: Tensor) -> Tensor:
        """Return the grey pixels (M, D) that :meth:`draw` starts from."""
        return self.images.index_select(0, index)

    @staticmethod
    def draw(rows: Tensor) -> Tensor:
        """Return pixels drawn from Bernoulli(row)."""
        return (_uniform(rows) < rows).to(rows.dtype)  # a quarter of torch.bernoulli's time


def _uniform(like: Tensor) -> Tensor:
    """Return numbers from [0, 1), multiples of 2^-24; on a CPU in less time than ``torch.rand``."""
    if like.device.type != "cpu":
        return torch.rand_like(like, dtype=torch.float32)
    words = torch.empty((like.numel() + 1) // 2, dtype=torch.int64).random_()
    return (words.view(torch.int32)[: like.numel()].view(like.shape) & 0xFFFFFF) * 2.0**-24


def draw_pixels(images: Tensor, pixels: str, generator: torch.Generator) -> Tensor:
    """Return images with grey, thresholded or drawn pixels; those of ``"dynamic"`` are drawn once.

    Args:
        images: (N, D), in [0, 1].
        pixels: ``"grey"``, ``"threshold"``, ``"static"`` or ``"dynamic"``.
        generator: draws the pixels.
    """
    if pixels == "grey":
        return images
    if pixels == "threshold":
        return (images > 0.5).float()
    return torch.bernoulli(images, generator=generator)
