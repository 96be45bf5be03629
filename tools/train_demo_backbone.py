"""Train the small backbone that ``skdebias demo`` ships, from printed characters.

The demo has to embed images with a real network where nothing can be downloaded. This
script makes that network: it draws letters and digits with the fonts that come with
matplotlib, distorts and colours them at random, and trains a small timm architecture
to name the character and to report its two colours. No handwriting and no image of
any data set is used for training, so what the demo does with handwritten digits is
transfer, as with an ImageNet network. The colours are part of the task because an
embedding that had lost them would leave nothing to unlearn.

Run it as::

    python tools/train_demo_backbone.py --out skdebias/assets

It writes ``demo_backbone.safetensors`` and ``demo_backbone.json`` (architecture,
preprocessing, settings and the measured linear probes). With one thread on one
machine the result depends on ``--seed`` only.
"""

import argparse
import json
import logging
import string
import time
from pathlib import Path

import matplotlib
import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("DejaVuSerif-BoldItalic", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
]
CANVAS = 64
MEAN = STD = 0.5

log = logging.getLogger("train_demo_backbone")


def draw_glyphs() -> torch.Tensor:
    """Draw every character in every font: (n_characters, n_fonts, CANVAS, CANVAS)."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    glyphs = np.zeros((len(CHARACTERS), len(FONTS), CANVAS, CANVAS), dtype=np.float32)
    for j, name in enumerate(FONTS):
        font = ImageFont.truetype(
            folder / f"{name}.ttf", size=44, layout_engine=ImageFont.Layout.BASIC
        )
        for i, character in enumerate(CHARACTERS):
            image = Image.new("L", (CANVAS, CANVAS))
            pen = ImageDraw.Draw(image)
            left, top, right, bottom = pen.textbbox((0, 0), character, font=font)
            # Centred by its box: position carries no information about the character.
            corner = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
            pen.text(corner, character, fill=255, font=font)
            glyphs[i, j] = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(glyphs)


def vary_strokes(glyphs: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Thin, keep or thicken the strokes of each glyph."""
    choice = torch.randint(0, 6, (len(glyphs), 1, 1, 1), generator=rng)
    thick = F.max_pool2d(glyphs, 5, stride=1, padding=2)
    thin = -F.max_pool2d(-glyphs, 3, stride=1, padding=1)
    return torch.where(choice == 0, thin, torch.where(choice == 1, thick, glyphs))


def warp(glyphs: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Apply a random affine map and a smooth random displacement to each glyph."""
    n = len(glyphs)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    angle, shear = uniform(-0.35, 0.35), uniform(-0.45, 0.45)
    zoom, aspect = uniform(0.45, 0.85), uniform(0.75, 1.4)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = torch.stack(
        [
            torch.stack([aspect * cos, shear * cos - sin, uniform(-0.12, 0.12)], -1),
            torch.stack([sin, (shear * sin + cos) / aspect, uniform(-0.12, 0.12)], -1),
        ],
        1,
    )
    rows[:, :, :2] *= zoom[:, None, None]
    grid = F.affine_grid(rows, [n, 1, size, size], align_corners=False)
    # Bends of the strokes: a coarse random field, enlarged smoothly.
    field = uniform(-1, 1, 2, 4, 4) * uniform(0.0, 0.22)[:, None, None, None]
    bend = F.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)
    grid = grid + bend.permute(0, 2, 3, 1)
    return F.grid_sample(glyphs, grid, align_corners=False)


def coarsen(shapes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Lower the resolution of each quarter of the batch, then enlarge it again."""
    size = shapes.shape[-1]
    parts = []
    for part in shapes.chunk(4):
        low = int(torch.randint(7, size + 1, (1,), generator=rng))
        low = int(low if torch.rand((), generator=rng) < 0.5 else min(low, 12))
        small = F.interpolate(part, size=(low, low), mode="area")
        parts.append(F.interpolate(small, size=(size, size), mode="bilinear"))
    return torch.cat(parts).clamp_(0, 1)


def paint(
    shapes: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour strokes and background; return the images and the (n, 6) colours."""
    n = len(shapes)
    ink = torch.rand(n, 3, generator=rng)
    light = 0.45 + 0.55 * torch.rand(n, 1, generator=rng)
    ink = ink / ink.amax(1, keepdim=True) * light
    paper = torch.rand(n, 3, generator=rng) * torch.rand(n, 1, generator=rng)
    black = torch.rand(n, 1, generator=rng) < 0.6
    close = (ink - paper).abs().amax(1, keepdim=True) < 0.3
    paper = torch.where(black | close, torch.zeros(()), paper)
    contrast = 0.8 + 1.0 * torch.rand(n, 1, 1, 1, generator=rng)
    alpha = (shapes * contrast).clamp(0, 1)
    images = paper[:, :, None, None] * (1 - alpha) + ink[:, :, None, None] * alpha
    noise = 0.03 * torch.rand(n, 1, 1, 1, generator=rng)
    images = images + noise * torch.randn(images.shape, generator=rng)
    return images.clamp_(0, 1), torch.cat([ink, paper], 1)


def draw_batch(
    glyphs: torch.Tensor, n: int, size: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normalised images (n, 3, size, size), characters (n,), colours (n, 6)."""
    character = torch.randint(0, glyphs.shape[0], (n,), generator=rng)
    font = torch.randint(0, glyphs.shape[1], (n,), generator=rng)
    shapes = vary_strokes(glyphs[character, font][:, None], rng)
    images, colours = paint(coarsen(warp(shapes, size, rng), rng), rng)
    return (images - MEAN) / STD, character, colours


def train(args: argparse.Namespace) -> torch.nn.Module:
    """Train the network with a character head and a colour head, and return it."""
    rng = torch.Generator().manual_seed(args.seed)
    glyphs = draw_glyphs()
    network = timm.create_model(args.architecture, num_classes=0)
    head = torch.nn.Linear(network.num_features, len(CHARACTERS) + 6)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps)
    network.train()
    start = time.perf_counter()
    for step in range(args.steps):
        images, character, colours = draw_batch(glyphs, args.batch_size, args.size, rng)
        out = head(network(images))
        names, tints = out[:, : len(CHARACTERS)], out[:, len(CHARACTERS) :]
        loss_name = F.cross_entropy(names, character, label_smoothing=0.05)
        loss_tint = F.mse_loss(tints, colours)
        optimizer.zero_grad()
        (loss_name + 10 * loss_tint).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            hit = (names.argmax(1) == character).float().mean()
            log.info(
                "step %5d  %4.0f s  character accuracy %.3f  colour error %.3f",
                *(step, time.perf_counter() - start, hit, loss_tint.sqrt()),
            )
    return network.eval()


def probe_images(size: int, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return scikit-learn's digits in one of six random colours, digit and colour."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    palette = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    )
    colour = rng.integers(0, len(palette), len(digits.target))
    tint = palette[colour] * 0.8 + rng.uniform(0, 0.2, (len(colour), 3))
    images = digits.images[:, None] / 16 * tint[:, :, None, None]
    images = torch.from_numpy(images.astype(np.float32))
    images = F.interpolate(images, size=(size, size), mode="bilinear")
    return (images - MEAN) / STD, digits.target, colour


def probe(network: torch.nn.Module, size: int, seed: int = 0) -> dict[str, float]:
    """Five-fold accuracy of a logistic regression for the digit and for the colour."""
    images, digit, colour = probe_images(size, seed)
    with torch.inference_mode():
        features = torch.cat([network(part) for part in images.split(256)]).numpy()
    line = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = {
        "digit_accuracy": cross_val_score(line, features, digit),
        "colour_accuracy": cross_val_score(line, features, colour),
    }
    return {name: round(float(score.mean()), 4) for name, score in scores.items()}


def write(network: torch.nn.Module, args: argparse.Namespace, probes: dict) -> None:
    """Write the float16 weights and their description."""
    args.out.mkdir(parents=True, exist_ok=True)
    # Counters of seen batches are integers and stay integers.
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    file = args.out / "demo_backbone.safetensors"
    save_file(state, file)
    file.chmod(0o644)  # save_file gives it to its owner only; a wheel is for everyone
    description = {
        "backbone": f"timm:{args.architecture}",
        "preprocess": {
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "size": args.size,
            "crop": 1.0,
            "interpolation": "bilinear",
        },
        "trained_by": "tools/train_demo_backbone.py",
        "trained_on": (
            f"{args.steps * args.batch_size:,} random drawings of {len(CHARACTERS)} "
            f"printed characters in {len(FONTS)} fonts bundled with matplotlib"
        ),
        "settings": {
            "seed": args.seed,
            "steps": args.steps,
            "batch_size": args.batch_size,
            "lr": args.lr,
        },
        "linear_probe": probes,
    }
    text = json.dumps(description, indent=2) + "\n"
    (args.out / "demo_backbone.json").write_text(text, encoding="utf-8")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--architecture", default="test_efficientnet", help="timm")
    parser.add_argument("--size", type=int, default=32, help="input side in pixels")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main() -> None:
    """Train, probe and write the backbone."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    fresh = timm.create_model(args.architecture, num_classes=0).eval()
    random_probe = probe(fresh, args.size)
    log.info("random weights: %s", random_probe)
    torch.manual_seed(args.seed)
    network = train(args)
    # Probe the weights that are shipped: rounded to float16, computed in float32.
    network = network.half().float()
    trained_probe = probe(network, args.size)
    log.info("trained weights: %s", trained_probe)
    write(network, args, {"trained": trained_probe, "random_weights": random_probe})


if __name__ == "__main__":
    main()
