"""Twenty lines add a method and search over it."""

import subprocess
import sys
from pathlib import Path

CODE = """
from dataclasses import dataclass
from typing import ClassVar
from skdebias import DebiasedClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.methods import Batch, Method, SamplingPlan
from skdebias.model_selection import BatchedGridSearchCV

@dataclass(frozen=True)
class PowerBalance(Method):
    power: float = 0.5
    stackable: ClassVar = ("power",)
    def plan(self, groups):
        share = groups.counts ** (1.0 - self.power)
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))

X, y, attributes = make_spurious_classification(600, random_state=0)
head = DebiasedClassifier(PowerBalance(), max_iter=10, random_state=0)
grid = {"method__power": [0.0, 1.0]}
search = BatchedGridSearchCV(head, grid, scoring=worst_group_accuracy_scorer)
print(search.fit(X, y, attributes=attributes).best_params_)
"""


def test_twenty_lines_add_a_method_and_search_over_it():
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 20
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "{'method__power': 1.0}\n", done.stderr[-2000:]
