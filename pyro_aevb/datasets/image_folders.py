"""Folders of images as arrays: the images of a folder, or of its folders, a class each.

Shapes: N images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_aevb.files.regular import check_regular

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "TIFF")  # those of Pillow's that are tried, whatever an image's name
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 8 bits a channel or less, so that 255 is white
MOST_PIXELS = 2**25  # of an image


class Images(NamedTuple):
    """The images of a folder.

    ``values``: (N, height, width), or (N, 3, height, width) if there are colours, of 0 to 255.  ``classes``: of each,
    (N,), or none.  ``left_out``: the folders whose images are left out.  ``transparent``: how many lie on white, since
    they have transparent pixels.
    """

    values: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    transparent: int


def read_images(folder: Path) -> Images:
    """Return the images of a folder, put on white where they are transparent.

    A folder without images of its own may have folders of them: the name of its folder is then an image's class.
    Hidden files are left out.

    Args:
        folder: the folder.

    Raises:
        ValueError, OSError: for images of different sizes, damaged ones, those that white hides, and none.
    """
    paths, inside = _images_in(folder), {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and (found := _images_in(each)):
            inside[each.name] = found
    if paths:
        values, transparent = _stacked(folder, paths)
        return Images(values, (), tuple(inside), transparent)
    paths = [path for found in inside.values() for path in found]
    if not paths:
        raise ValueError(f"expected images ({', '.join(IMAGES)}) in {folder}, got none; name another folder")
    values, transparent = _stacked(folder, paths)
    return Images(values, tuple(name for name, found in inside.items() for _ in found), (), transparent)


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))


def _stacked(folder: Path, paths: list[Path]) -> tuple[np.ndarray, int]:
    read = [_read_image(path) for path in paths]
    images, transparent = [image for image, _ in read], sum(on_white for _, on_white in read)
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"expected images of one size in {folder}, got {_size(images[0])} for {paths[0].name} and "
                f"{_size(image)} for {path.name}; resize or crop them first"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images), transparent
    channels = [np.stack([image] * 3) if image.ndim == 2 else image.transpose(2, 0, 1) for image in images]
    return np.stack(channels), transparent


def _read_image(path: Path) -> tuple[np.ndarray, bool]:
    """Return an image, (height, width) or (height, width, 3), and whether white shows through it."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # here, since few read images

    check_regular(path)
    try:
        with Image.open(path, formats=FORMATS) as file:
            _check_image(file, path)
            image = ImageOps.exif_transpose(file)  # as a camera was held
            seen = _on_white(image, path) if image.has_transparency_data else None
            if seen is None and image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L")), False
            colours = np.asarray(image.convert("RGB") if seen is None else seen)
            return (colours if (colours != colours[..., :1]).any() else colours[..., 0]), seen is not None
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


def _on_white(image: Any, path: Path) -> Any:
    """Return an image as it looks on white, ``None`` if no pixel is transparent; raise for one that white hides."""
    from PIL import Image

    whole = image.convert("RGBA")
    least, most = whole.getchannel("A").getextrema()
    if least == 255:
        return None
    seen = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    if least < most and seen.getextrema() == ((255, 255),) * 3:
        raise _WrongImageError(
            f"expected an image that shows on white, got {path}, which is white where it isn't transparent; save it on "
            "another background"
        )
    return seen


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
