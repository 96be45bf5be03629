"""Decoding images: which formats, which limits, and how each mode becomes RGB."""

import io
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from embeddings_cache._errors import ItemError
from embeddings_cache._fingerprint import versions
from embeddings_cache._turns import Turns

# A cache that knows these only has no row of the others, which were refused: so the
# key names these, and formats that are added here do not change it.
_KEYED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Raster formats of Pillow that need no other program and can be told by their content.
# Formats of drawings and documents (EPS, PDF, WMF) run other programs.
FORMATS = (
    *_KEYED_FORMATS,
    *("AVIF", "JPEG2000", "ICO", "ICNS", "DIB", "PCX", "SGI", "QOI", "PSD", "DDS"),
)
# Any bytes could be one of these, so the suffix of a file has to say it.
_BY_SUFFIX = dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA")
_NAMES = (
    "jpg jpeg jpe jfif mpo png apng webp bmp dib gif tif tiff ppm pgm pbm pnm avif "
    "avifs jp2 j2k jpc jpf jpx j2c ico icns pcx sgi qoi psd dds tga icb vda vst"
)
SIGNATURE_BYTES = 16
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II\*\0|MM\0\*"
    rb"|P[1-6]\s|....ftypavi[fs]|\0\0\0\x0cjP  |\xff\x4f\xff\x51|qoif|8BPS",
    re.DOTALL,
)
#: In `info` of an image whose file promises more bits than its pixels use.
SHALLOW = "embeddings_cache: shallow"
_TWELVE_BITS = 1 << 12
#: The longer side of an image over its shorter one, at most.
MAX_ASPECT_RATIO = 100
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


def decoder_description() -> dict[str, Any]:
    """Describe everything here that changes a pixel, for the extractor key."""
    described = {
        "decoder": versions("pillow"),
        "formats": list(_KEYED_FORMATS),
        "frame": "first",
        "orientation": "EXIF applied",
        "colour": "RGB; alpha over white; 16-bit to its high byte, unless below 256",
        "rules": 2,
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


def has_signature(start: bytes) -> bool:
    """Return whether a file is an image, by its first bytes.

    Parameters
    ----------
    start : bytes
        At least `SIGNATURE_BYTES`, if the file has them.
    """
    return _SIGNATURES.match(start) is not None


def decode(data: bytes, suffix: str = "") -> Image.Image:
    """Decode a file's bytes to an upright RGB image.

    Parameters
    ----------
    data : bytes
    suffix : str, default=""
        Of the file, for formats that cannot be told by their content.

    Raises
    ------
    ItemError
        If the bytes are not one of the allowed formats, are cut short, or open to
        more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        return _decode(data, suffix)
    except Warning:
        # Of Pillow, where the caller made errors of warnings: the picture is the same.
        # Filters are the process's, so this is done for one picture at a time.
        with _filters.alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, suffix)


_filters = Turns()


def _decode(data: bytes, suffix: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_formats(suffix)) as image:
            _check_pixels(image)
            _check_shape(image.width, image.height)
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


def _formats(suffix: str) -> tuple[str, ...]:
    more = _BY_SUFFIX.get(suffix.lower())
    return FORMATS if more is None else (*FORMATS, more)


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
    deep = _is_deep_colour(image)
    image.load()
    image = ImageOps.exif_transpose(image) or image
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    converted = _eight_bit_to_rgb(image)
    if deep and _highest_colour(image) < _TWELVE_BITS >> 8:
        converted.info[SHALLOW] = True
    return converted


def _is_deep_colour(image: Image.Image) -> bool:
    """Return whether a file, not read yet, has 16 bits for each of several channels."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if tile[0] == "ppm" and arguments[-1] > 255:
            return True
        if ";16" in str(arguments[0]) and image.mode not in _SIXTEEN_BIT:
            return True
    return False


def _highest_colour(image: Image.Image) -> int:
    """Return the highest value of the colours; what is opaque is 255."""
    opacity = 1 if image.mode in _TRANSPARENT else 0
    channels = image.getbands()[: len(image.getbands()) - opacity]
    highest = [image.getchannel(channel).getextrema()[1] for channel in channels]
    return int(max(highest))  # type: ignore[arg-type]


def _eight_bit_to_rgb(image: Image.Image) -> Image.Image:
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
    highest = values.max(initial=0)
    # The same in all containers. Scaling 10 or 12 bits by what one image holds would
    # make dark images of a set as bright as the others, so they only are reported.
    shift = 0 if highest <= 255 else 8
    grey = (values.astype(np.uint16) >> shift).astype(np.uint8)
    converted = Image.fromarray(grey).convert("RGB")
    if 0 < highest < _TWELVE_BITS:
        converted.info[SHALLOW] = True
    return converted


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
