"""Folders of images as arrays: the images of a folder, or of its folders, a class each.

Shapes: N images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.files.regular import check_regular

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "TIFF")  # those of Pillow's that are tried, whatever an image's name
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 8 bits a channel or less, so that 255 is white
MOST_PIXELS = 2**25  # of an image


def read_images(folder: Path) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return the images of a folder, the class of each, and the folders whose images are left out.

    Images (N, height, width), or (N, 3, height, width) if there are colours, of 0 to 255.  A folder without images of
    its own may have folders of them: the name of its folder is then an image's class, (N,).  Hidden files are left out.

    Args:
        folder: the folder.

    Raises:
        ValueError, OSError: for images of different sizes, damaged ones, and none.
    """
    paths, inside = _images_in(folder), {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and (found := _images_in(each)):
            inside[each.name] = found
    if paths:
        return _stacked(folder, paths), (), tuple(inside)
    paths = [path for found in inside.values() for path in found]
    if not paths:
        raise ValueError(f"expected images ({', '.join(IMAGES)}) in {folder}, got none; name another folder")
    return _stacked(folder, paths), tuple(name for name, found in inside.items() for _ in found), ()


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))


def _stacked(folder: Path, paths: list[Path]) -> np.ndarray:
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"expected images of one size in {folder}, got {_size(images[0])} for {paths[0].name} and "
                f"{_size(image)} for {path.name}; resize or crop them first"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    channels = [np.stack([image] * 3) if image.ndim == 2 else image.transpose(2, 0, 1) for image in images]
    return np.stack(channels)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError  # here, since few read images

    check_regular(path)
    try:
        with Image.open(path, formats=FORMATS) as file:
            _check_image(file, path)
            image = ImageOps.exif_transpose(file)  # as a camera was held
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L"))
            colours = np.asarray(image.convert("RGB"))
            return colours if (colours != colours[..., :1]).any() else colours[..., 0]
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"expected an image of up to {MOST_PIXELS} pixels, got {path}: {error}; crop it") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"expected an image, {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {path}: {error}; remove it, or make "
            "it anew"
        ) from error
    except OSError as error:
        raise OSError(error.errno, f"expected a whole image, got {os.fspath(path)}: {error}; make it anew") from error
    except _WrongImageError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever Pillow's readers raise for what is damaged
        raise ValueError(f"expected a whole image, got {path}: {error}; make it anew") from error


class _WrongImageError(Exception):
    """Raised for an image that is whole, and can't be used."""


def _check_image(image: Any, path: Path) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _WrongImageError(
            f"expected an image of up to {MOST_PIXELS} pixels, got {width}x{height} in {path}; crop or resize it"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise _WrongImageError(f"expected one image a file, got {image.n_frames} pages in {path}; save each by itself")
    if image.mode not in MODES:
        raise _WrongImageError(f"expected an image of 8 bits a channel, got {path} of mode {image.mode}; convert it")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
