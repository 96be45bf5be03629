"""Steps of whole networks on a GPU against plain PyTorch, for gpu_check.py."""

import numpy as np
import timm
import torch
from _gpu_notes import seconds_of
from torch import nn

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.finetune import FineTuneClassifier


class _Run:
    """The same network and rows, trained by either side for some epochs."""

    def __init__(self, options):
        self.kind = torch.device(options.device).type
        self.name, side, self.batch, n = (
            ("resnet18", 32, 8, 16) if options.tiny else ("resnet50", 224, 128, 1024)
        )
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(n, 3, side, side)).astype(np.float32)
        self.y = np.arange(n) % 2
        self.a = np.where(rng.random(n) < 0.9, self.y, 1 - self.y)
        self.epochs = (1, 2) if options.tiny else (1, 4)

    def _network(self):
        torch.manual_seed(0)
        return timm.create_model(self.name, num_classes=0)

    def ours(self, method, epochs):
        """Train by FineTuneClassifier."""
        FineTuneClassifier(
            method,
            self._network(),
            modality="tensor",
            batch_size=self.batch,
            max_iter=epochs,
            precision="bfloat16",
            device=self.kind,
            random_state=0,
        ).fit(self.X, self.y, self.a)

    def plain(self, where, layout, epochs):
        """Train by a loop as one writes it."""
        network = self._network()
        head = nn.Linear(network.num_features, 1)
        model = nn.Sequential(network, head).to(self.kind, memory_format=layout)
        rows = torch.from_numpy(self.X).to(where)
        target = torch.from_numpy(self.y).float().to(self.kind)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        for _ in range(epochs):
            for index in torch.randperm(len(rows)).split(self.batch):
                x = rows[index.to(where)].to(self.kind, memory_format=layout)
                with torch.autocast(self.kind, torch.bfloat16):
                    z = model(x)[:, 0].float()
                loss = nn.functional.binary_cross_entropy_with_logits(
                    z, target[index.to(self.kind)]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def step(self, train):
        """Seconds of a step: what further epochs take."""
        few, many = self.epochs
        train(few)
        times = [
            seconds_of(lambda e=epochs: train(e), self.kind, 1, warm=False)
            for epochs in (few, many)
        ]
        return (times[1] - times[0]) / ((many - few) * len(self.X) / self.batch)


def measure(options, notes):
    """Note the milliseconds of a step."""
    run = _Run(options)
    plain, channels = torch.contiguous_format, torch.channels_last
    trainings = {
        "ERM": lambda e: run.ours(ERMClassifier(), e),
        "GERNE": lambda e: run.ours(GERNEClassifier(beta=0.5), e),
        "plain, rows on the CPU": lambda e: run.plain("cpu", plain, e),
        "plain, rows on the device": lambda e: run.plain(run.kind, plain, e),
        "plain, channels_last": lambda e: run.plain(run.kind, channels, e),
    }
    found = {}
    for label, train in trainings.items():
        with notes.tolerant(f"step, {label}"):
            found[label] = run.step(train)
            notes.add(f"step, {label}, ms", 1e3 * found[label])
    for label, seconds in found.items():
        if label != "ERM" and "ERM" in found:
            notes.add(f"{label}, of a step of ERM", seconds / found["ERM"])
