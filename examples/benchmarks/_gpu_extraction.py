"""Extraction on a GPU against the forward pass alone, for gpu_check.py."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _gpu_notes import seconds_of
from PIL import Image

from embeddings_cache import EmbeddingExtractor

_WORDS = ("seven", "birds", "on", "grass", "near", "water", "look", "at", "a", "dog")


def _scaled(image):
    """Prepare an image for next to nothing, so that the GPU is what is measured."""
    array = np.array(image)
    return torch.from_numpy(array).permute(2, 0, 1).float().div_(127.5).sub_(1)


def _images(side):
    def made(n):
        noise = np.random.default_rng(0).integers(
            0, 255, (16, side, side, 3), dtype=np.uint8
        )
        images = np.stack([noise[i % 16] for i in range(n)])
        images[:, 0, :4, 0] = np.arange(n, dtype=np.uint32)[:, None].view(np.uint8)
        return images

    return made


def _texts(n):
    rng = np.random.default_rng(0)
    return [f"{' '.join(rng.choice(_WORDS, 24))} {i}" for i in range(n)]


def _plans(tiny):
    """Yield name, maker of items, number of items, batch size and settings."""
    if tiny:
        small = {"model_kwargs": {"img_size": 32}}
        yield "timm:resnet18", _images(32), 16, 8, {}
        yield "timm:vit_tiny_patch16_224", _images(32), 8, 4, small
        return
    yield "timm:resnet50", _images(224), 8192, 256, {}
    yield "timm:vit_huge_patch14_224", _images(224), 1536, 64, {}
    yield (
        "sentence-transformers:bert-base-uncased",
        _texts,
        16384,
        256,
        {"modality": "text"},
    )


def measure(options, notes):
    """Note rows/s of `transform` and of the bare network, canary included."""
    for name, make, n_items, batch, more in _plans(options.tiny):
        for precision in ("bfloat16",) if options.tiny else ("bfloat16", "float16"):
            label = f"{name}, {precision}"
            settings = more | {"precision": precision, "batch_size": batch}
            with notes.tolerant(label), tempfile.TemporaryDirectory() as folder:
                _measure(
                    label, name, make(n_items), settings, options.device, folder, notes
                )


def _measure(label, name, items, settings, device, folder, notes):
    batch = settings["batch_size"]
    extractor = EmbeddingExtractor(
        name,
        pretrained=False,
        device=device,
        progress=False,
        cache_dir=Path(folder) / "first",
        **settings,
    )
    start = time.perf_counter()
    extractor.transform(items[:batch])
    notes.add(f"{label}: first call, s", time.perf_counter() - start)
    extractor.set_params(cache_dir=Path(folder) / "second")
    if extractor._network.backbone.modality == "image":
        extractor._network.backbone.prepare = _scaled
    ours = seconds_of(lambda: extractor.transform(items), device, 1, warm=False)
    if extractor.last_run_.n_computed != len(items):
        raise RuntimeError(f"not all were computed: {extractor.last_run_}")
    notes.add(f"{label}: transform, rows/s", len(items) / ours)
    bare = _bare(
        extractor._network.backbone, items[:batch], settings["precision"], device
    )
    notes.add(f"{label}: bare forward, rows/s", batch / bare)
    notes.add(f"{label}: share of the bare forward", len(items) * bare / batch / ours)


def _bare(backbone, items, precision, device):
    """Seconds of the forward pass of a batch that lies on the device."""
    if backbone.modality == "image":
        items = [Image.fromarray(item) for item in items]
    batch = backbone.collate([backbone.prepare(item) for item in items])
    parts = batch if isinstance(batch, dict) else {"x": batch}
    parts = {k: v.to(device) if torch.is_tensor(v) else v for k, v in parts.items()}
    network = backbone.network.to(device).eval()
    if backbone.channels_last:
        layout = torch.channels_last
        parts = {k: v.contiguous(memory_format=layout) for k, v in parts.items()}
        network.to(memory_format=layout)
    batch = parts if isinstance(batch, dict) else parts["x"]
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, getattr(torch, precision)):
        return seconds_of(lambda: backbone.forward(batch), device, 5)
