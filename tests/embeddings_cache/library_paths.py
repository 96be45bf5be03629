"""Embeddings as each library's own documentation computes them, in float32."""

import numpy as np
import torch
from PIL import Image


def photographs(n=3):
    """Return RGB images of odd shapes with smooth and rough parts."""
    rng = np.random.default_rng(5)
    shapes = [(41, 67), (90, 50), (64, 64)][:n]
    rows = []
    for height, width in shapes:
        y, x = np.mgrid[0:height, 0:width]
        smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], -1)
        noise = rng.integers(0, 60, (height, width, 3))
        rows.append(Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)))
    return rows


def embed_images(network, transform, images, method="__call__"):
    """Apply a transform to every image, and a network to all of them."""
    encode = getattr(network.eval(), method)
    with torch.inference_mode():
        return encode(torch.stack([transform(image) for image in images])).numpy()


def sentence_transformers(folder, texts, **kwargs):
    """Load a folder and encode, as the model cards do, each text by itself."""
    from sentence_transformers import SentenceTransformer

    kwargs.setdefault("model_kwargs", {"dtype": torch.float32})
    model = SentenceTransformer(str(folder), device="cpu", **kwargs)
    return np.concatenate([model.encode([text]) for text in texts])


def transformers(folder, texts):
    """Average a transformer's last hidden states over the real tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = network(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


def open_clip(monkeypatch, file, name, tag, *, modality="image", items, **kwargs):
    """Create a model by its tag, the tag's file being at hand, and encode.

    QuickGELU is asked for where the tag was trained with it, as the library's README
    has it.
    """
    import open_clip as library
    from open_clip import factory, pretrained

    settings = pretrained.get_pretrained_cfg(name, tag)
    if settings.get("quick_gelu"):
        kwargs.setdefault("force_quick_gelu", True)
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: str(file))
    model, _, transform = library.create_model_and_transforms(name, tag, **kwargs)
    if modality == "image":
        return embed_images(model, transform, items, "encode_image")
    tokens = library.get_tokenizer(
        name, context_length=kwargs.get("force_context_length")
    )(items)
    with torch.inference_mode():
        return model.eval().encode_text(tokens).numpy()


def timm(name, file, images, **kwargs):
    """Create a model without its classifier, and its own transform."""
    import timm as library
    from safetensors.torch import load_file

    network = library.create_model(name, num_classes=0, **kwargs)
    network.load_state_dict(load_file(file))
    config = library.data.resolve_model_data_config(network)
    transform = library.data.create_transform(**config, is_training=False)
    return embed_images(network, transform, images)


def torchvision(name, entry, file, images, **kwargs):
    """Load weights into a model as its entry would; what enters the last layer."""
    from safetensors.torch import load_file
    from torch import nn
    from torchvision import models

    network = models.get_model(name, weights=None, **kwargs)
    versions = network.state_dict()
    versions.update(load_file(file))
    network.load_state_dict(versions)
    caught = []
    last = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.out_features == 1000
    ][-1]
    last.register_forward_hook(lambda _, inputs, __: caught.append(inputs[0]))
    transform = models.get_model_weights(name)[entry].transforms()
    embed_images(network, transform, images)
    return caught[-1].numpy()
