"""Ten corruptions of photographs of 32 pixels, as strong as those of CIFAR-10-C.

Every corruption takes colour images `x` of shape (n_images, 32, 32, 3), float32 in
[0, 1], and a generator, and returns new ones, which may leave [0, 1].
"""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

_MUD = np.array((63, 42, 20)) / 255
_WATER = np.array((175, 238, 238)) / 255


def corrupt(name, images, severity, rng):
    """Corrupt uint8 images by the corruption `name` of `CORRUPTIONS`."""
    function, constants = CORRUPTIONS[name]
    x = function(images.astype(np.float32) / 255, rng, *constants[severity - 1])
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def _snow(x, rng, mean, std, factor, threshold, radius, sigma, share):
    flakes = _zoom_in(rng.normal(mean, std, x.shape[:3]), factor)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _motion_blur(flakes, radius, sigma, rng.uniform(-135, -45, len(x)))
    grey = x @ np.array((0.299, 0.587, 0.114), dtype=x.dtype)
    pale = np.maximum(x, 1.5 * grey[..., None] + 0.5)
    # The flakes and the same upside down: two directions of fall.
    return share * x + (1 - share) * pale + (flakes + flakes[:, ::-1, ::-1])[..., None]


def _zoom_in(layers, factor):
    """Enlarge the middle of each layer to the size of the layer."""
    side = layers.shape[1]
    inner = int(np.ceil(side / factor))
    start = (side - inner) // 2
    middle = layers[:, start : start + inner, start : start + inner]
    large = zoom(middle, (1, factor, factor), order=1)
    start = (large.shape[1] - side) // 2
    return large[:, start : start + side, start : start + side]


def _motion_blur(layers, radius, sigma, degrees):
    """Average each layer along its own direction, with weights of half a Gaussian."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)[:, None, None]
    image = np.arange(len(layers))[:, None, None]
    rows, columns = np.indices(layers.shape[1:])
    last = layers.shape[1] - 1
    blurred = np.zeros_like(layers)
    for step, weight in zip(steps, weights):
        down = np.ceil(step * np.sin(angle) - 0.5).astype(int)
        right = np.ceil(step * np.cos(angle) - 0.5).astype(int)
        moved = np.clip(rows + down, 0, last), np.clip(columns + right, 0, last)
        blurred += weight * layers[image, *moved]
    return blurred


def _frost(x, rng, share, frost_share):
    side = x.shape[1]
    photographs = _frost_photographs()
    crops = np.empty_like(x)
    for crop, choice in zip(crops, rng.randint(len(photographs), size=len(x))):
        photograph = photographs[choice]
        top = rng.randint(photograph.shape[0] - side)
        left = rng.randint(photograph.shape[1] - side)
        crop[:] = photograph[top : top + side, left : left + side]
    return share * x + frost_share * crops


def _frost_photographs():
    # The package is found but not imported: that would take OpenCV and numba along.
    package = find_spec("imagecorruptions")
    if package is None:
        raise ImportError(
            "The photographs of frost come with the package imagecorruptions-imaug: "
            "pip install 'skdebias[reproduce]'."
        )
    folder = Path(package.submodule_search_locations[0]) / "frost"
    # The first five of the six, as in CIFAR-10-C. Bilinear interpolation at a fifth
    # of the size reads the middle pixel of every block of five.
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    return [
        np.asarray(Image.open(folder / name).convert("RGB"))[2::5, 2::5] / 255
        for name in names
    ]


def _fog(x, rng, strength, decay):
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    fog = _plasma(len(x), x.shape[1], decay, rng)[..., None]
    return (x + strength * fog) * brightest / (brightest + strength)


def _plasma(n_maps, side, decay, rng):
    """Return height maps in [0, 1] by the diamond-square algorithm, periodic.

    Every level halves the grid and divides the size of its random heights by the
    square of `decay`. `side` is a power of two.
    """
    height = np.zeros((n_maps, side, side))
    step, size = side, 1.0
    while step >= 2:
        half = step // 2

        def midpoints(total, size=size):
            return total / 4 + size * rng.uniform(-1, 1, total.shape)

        corners = height[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        height[:, half::step, half::step] = midpoints(
            total + np.roll(total, -1, axis=2)
        )
        centres = height[:, half::step, half::step]
        height[:, ::step, half::step] = midpoints(
            centres
            + np.roll(centres, 1, axis=1)
            + corners
            + np.roll(corners, -1, axis=2)
        )
        height[:, half::step, ::step] = midpoints(
            centres
            + np.roll(centres, 1, axis=2)
            + corners
            + np.roll(corners, -1, axis=1)
        )
        step, size = half, size / decay**2
    height -= height.min(axis=(1, 2), keepdims=True)
    return height / height.max(axis=(1, 2), keepdims=True)


def _brightness(x, rng, shift):
    """Add to the value of HSV: hue and saturation keep the ratios of the channels."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + shift, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _saturate(x, rng, factor, shift):
    """Scale and shift the saturation of HSV; a grey pixel has the hue of red."""
    value = x.max(axis=-1, keepdims=True)
    spread = value - x.min(axis=-1, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    new = np.clip(factor * saturation + shift, 0, 1)
    hue = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), (0, 1, 1))
    return value * (1 - new * hue)


def _contrast(x, rng, factor):
    mean = x.mean(axis=(1, 2), keepdims=True)
    return factor * (x - mean) + mean


def _spatter(x, rng, mean, std, sigma, threshold, strength, mud):
    liquid = _blur(rng.normal(mean, std, x.shape[:3]), sigma)
    liquid[liquid < threshold] = 0
    if not mud:
        return x + strength * _water(liquid)[..., None] * _WATER
    covered = _blur((liquid > 0).astype(float), strength)
    covered[covered < 0.8] = 0
    return (1 - covered[..., None]) * x + covered[..., None] * _MUD


def _blur(layers, sigma):
    return gaussian_filter(layers, (0, sigma, sigma), mode="nearest")


def _water(liquid):
    """Return light on drops: how bright each pixel of the layers is, at most 1."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"Spatter of severity 1 to 3 needs OpenCV ({error}): "
            "pip install 'skdebias[reproduce]', or opencv-python-headless where there "
            "is no display."
        ) from error
    relief = np.array(((-2, -1, 0), (-1, 1, 1), (0, 1, 2)))
    light = np.empty_like(liquid, dtype=np.float32)
    for row, layer in enumerate((255 * liquid).astype(np.uint8)):
        edges = 255 - cv2.Canny(layer, 50, 150)
        depth = np.minimum(cv2.distanceTransform(edges, cv2.DIST_L2, 5), 20)
        depth = cv2.equalizeHist(cv2.blur(depth, (3, 3)).astype(np.uint8))
        depth = cv2.blur(cv2.filter2D(depth, cv2.CV_8U, relief), (3, 3))
        light[row] = layer * depth.astype(np.float32)
    brightest = light.max(axis=(1, 2), keepdims=True)
    return light / np.where(brightest > 0, brightest, 1)


def _elastic(x, rng, reach, sigma, jitter):
    side = x.shape[1]
    # An affine map by where it takes three points (column, row) of the image ...
    near, far = side // 2 - side // 3, side // 2 + side // 3
    points = np.array(((far, far), (far, near), (near, near)), dtype=float)
    moved = points + rng.uniform(-jitter, jitter, (len(x), 3, 2)) * side
    # ... read backwards, from pixels of the result to places in the image.
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(x), 3, 1))], 2), points)
    rows, columns = np.indices((side, side), dtype=float)
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    affine = np.einsum("rcp,npq->qnrc", pixels, back)
    noise = rng.uniform(-1, 1, (2, *x.shape[:3]))
    width = side * sigma
    noise = gaussian_filter(noise, (0, 0, width, width), mode="reflect", truncate=3)
    right, down = side * reach * noise
    x = _sample(x, affine[1], affine[0], "mirror")
    return _sample(x, rows + down, columns + right, "reflect")


def _sample(x, rows, columns, mode):
    """Read every image at its own places (n_images, side, side)."""
    sampled = np.empty_like(x)
    for image, out, *places in zip(x, sampled, rows, columns):
        for channel in range(3):
            map_coordinates(
                image[..., channel], places, out[..., channel], order=1, mode=mode
            )
    return sampled


def _jpeg(x, rng, quality):
    def compress(image):
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(x, compress)


def _pixelate(x, rng, factor):
    small = int(factor * x.shape[1])

    def pixelate(image):
        size = image.size
        image = image.resize((small, small), Image.Resampling.BOX)
        return image.resize(size, Image.Resampling.BOX)

    return _by_pillow(x, pixelate)


def _by_pillow(x, function):
    images = np.rint(255 * x).astype(np.uint8)
    changed = [np.asarray(function(Image.fromarray(image))) for image in images]
    return np.stack(changed).astype(x.dtype) / 255


# Name: function and its constants at severities 1 to 5, those of CIFAR-10-C. Class k of
# Corrupted CIFAR-10 is paired with the k-th.
CORRUPTIONS = {
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (_contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "spatter": (
        _spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
    "elastic": (
        _elastic,
        (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
    ),
    "jpeg": (_jpeg, ((80,), (65,), (58,), (50,), (40,))),
    "pixelate": (_pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "saturate": (_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
