"""Decoding images: which formats, which limits, and how each mode becomes RGB."""

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from embeddings_cache._errors import ItemError
from embeddings_cache._fingerprint import versions
from embeddings_cache._turns import Turns

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_NAMES = "jpg jpeg jpe png webp bmp gif tif tiff ppm pgm pbm pnm"
#: The longer side of an image over its shorter one, at most.
MAX_ASPECT_RATIO = 100
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


def decoder_description() -> dict[str, Any]:
    """Describe everything here that changes a pixel, for the extractor key."""
    described = {
        "decoder": versions("pillow"),
        "formats": list(FORMATS),
        "frame": "first",
        "orientation": "EXIF applied",
        "colour": "RGB; alpha over white; 16-bit to its high byte",
        "rules": 1,
    }
    if fills_truncated():
        # A setting of Pillow's for the process; most leave it off.
        described["truncated"] = "filled"
    return described


def fills_truncated() -> bool:
    """Return whether Pillow now fills what is missing of a file that is cut short."""
    return bool(ImageFile.LOAD_TRUNCATED_IMAGES)


def limits() -> tuple[int | None, bool]:
    """Return Pillow's settings of this process that say which images it takes."""
    return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES


def set_limits(pixels: int | None, truncated: bool) -> None:
    """Take over the `limits` of another process."""
    Image.MAX_IMAGE_PIXELS = pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    # The limit itself is applied by `decode`.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def decode(data: bytes) -> Image.Image:
    """Decode a file's bytes to an upright RGB image.

    Raises
    ------
    ItemError
        If the bytes are not one of the allowed formats, are cut short, or open to
        more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        return _decode(data)
    except Warning:
        # Of Pillow, where the caller made errors of warnings: the picture is the same.
        # Filters are the process's, so this is done for one picture at a time.
        with _filters.alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data)


_filters = Turns()


def _decode(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            _check_shape(image.width, image.height)
            image.load()
            return to_rgb(image)
    except UnidentifiedImageError:
        raise ItemError(
            f"not an image of a format that is read here ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemError(f"too many pixels ({error})") from error
    except (ItemError, Warning):
        raise
    # Broken files reach decoders in many ways; none may stop the other items.
    except Exception as error:
        raise ItemError(f"damaged or truncated ({error})") from error


def _check_pixels(image: Image.Image) -> None:
    # Pillow only warns up to twice its limit. A warning is not caught reliably in
    # reader threads, so the limit is applied here.
    limit = Image.MAX_IMAGE_PIXELS
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        raise ItemError(
            f"too many pixels ({image.width} x {image.height} = {pixels}, more than "
            f"PIL.Image.MAX_IMAGE_PIXELS = {limit}: a decompression bomb?)"
        )


def _check_shape(width: int, height: int) -> None:
    # Most preprocessing makes the shorter side some hundred pixels and the longer one
    # in proportion: a file of 99 bytes could ask for gigabytes.
    longer, shorter = max(width, height), min(width, height)
    if longer > MAX_ASPECT_RATIO * shorter:
        raise ItemError(
            f"{width} x {height} pixels: the longer side is more than "
            f"{MAX_ASPECT_RATIO} times the shorter, and resizing would make it huge; "
            "cut it into pieces"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright, in RGB; transparency is laid over white."""
    _check_shape(image.width, image.height)
    image = ImageOps.exif_transpose(image) or image
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    if image.mode == "F":
        raise ItemError("floating-point pixels have no agreed range; save it as 8-bit")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns most 16-bit images white.
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ItemError("pixels beyond 16 bits; save the image as 8-bit")
    if image.mode == "I" and values.max(initial=0) <= 255:
        grey = values.astype(np.uint8)
    else:
        grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def from_array(array: np.ndarray) -> Image.Image:
    """Return an RGB image of a uint8 array of shape (h, w), (h, w, 1) or (h, w, 3)."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    right_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not right_shape or 0 in array.shape:
        raise ItemError(
            f"an array of type {array.dtype} and shape {array.shape}; images must be "
            "uint8 of shape (height, width) or (height, width, 3)"
        )
    _check_shape(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def pixel_bytes(image: Image.Image) -> bytes:
    """Return what identifies a decoded RGB image: its size, then its pixels."""
    return b"image RGB %d %d\0" % image.size + image.tobytes()
