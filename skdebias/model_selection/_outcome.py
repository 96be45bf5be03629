"""From the scores of a comparison to its table, and to words."""

import numpy as np
import pandas as pd

from skdebias.metrics import corrected_interval
from skdebias.model_selection._contenders import BASELINE
from skdebias.model_selection._verdict import decide

_BESIDE = ("worst_group", "group_balanced", "worst_inferred_group", "average")


class Outcome:
    """The scores of all methods, and what they say.

    Parameters
    ----------
    contenders : list of Contender
        In their order of simplicity.
    results : list of dict of str to ndarray of shape (n_splits,)
        All measures of every method.
    divisions : list of FoldedRows
    """

    def __init__(self, contenders, results, divisions):
        self._contenders, self._results = contenders, results
        #: Numbers of the methods that have scores.
        self._scored = [n for n, one in enumerate(contenders) if not one.skipped]
        if not self._scored:
            reasons = {f"{one.name}: {one.skipped}" for one in contenders}
            raise ValueError(
                f"No method could be trained. The reasons are: {'; '.join(reasons)}"
            )
        n_scored = (divisions[0].folds >= 0).sum()
        n_folds = divisions[0].n_folds
        self._sizes = {
            "n_train": n_scored * (1 - 1 / n_folds),
            "n_test": n_scored / n_folds,
        }
        scores = np.array([results[number]["score"] for number in self._scored])
        self.verdict = decide(scores, **self._sizes)

    @property
    def chosen(self):
        """Number of the method to take."""
        return self._scored[self.verdict.chosen]

    def report(self, scoring, given):
        """Return the attributes of a MethodComparison.

        Parameters
        ----------
        scoring : str
            Name of the score.
        given : GivenRows

        Returns
        -------
        dict of str to object
        """
        names = [one.name for one in self._contenders]
        scored = [names[number] for number in self._scored]
        best = scored[self.verdict.best]
        return {
            "table": self._table(given),
            "verdict": self._in_words(scored, scoring.replace("_", " ")),
            "winner": best if self.verdict.is_won else None,
            "best_method": scored[self.verdict.chosen],
            "scores": pd.DataFrame(
                {names[n]: self._results[n]["score"] for n in self._scored}
            ).rename_axis("fold"),
            "choices": {
                one.name: [one.shown[number] for number in one.chosen]
                for one in self._contenders
                if not one.skipped
            },
        }

    def _table(self, given):
        rows = [self._row(number, given) for number in range(len(self._contenders))]
        table = pd.DataFrame(rows)
        # Of equal scores the simpler method comes first.
        return table.sort_values(
            "score", ascending=False, kind="stable", ignore_index=True
        )

    def _row(self, number, given):
        contender = self._contenders[number]
        apart = given.annotated_apart
        told = f"attributes{' of validation rows' * apart}"
        row = {
            "method": contender.name,
            "told": told if contender.annotated else "labels only",
        }
        numbers = dict.fromkeys(
            ("score", "low", "high", "behind", "behind_low", "behind_high"), np.nan
        )
        row |= numbers | {"level": False}
        measured = self._results[number]
        if not contender.skipped:
            position = self._scored.index(number)
            interval = corrected_interval(measured["score"], **self._sizes)
            behind = self.verdict.differences[position].tolist()
            row |= dict(zip(numbers, [*interval, *behind]))
            row["level"] = bool(self.verdict.level[position])
        for name in _BESIDE:
            if any(name in one for one in self._results):
                values = [] if contender.skipped else measured[name]
                row[name] = float(np.mean(values)) if len(values) else np.nan
        return row | {
            "seconds": contender.seconds,
            "n_settings": len(contender.settings),
            "parameters": _most_frequent(contender),
            "skipped": contender.skipped,
        }

    def _in_words(self, names, scoring):
        verdict = self.verdict
        best, taken = names[verdict.best], names[verdict.chosen]
        if len(names) == 1:
            return f"{best} is the only method that could be trained: take it."
        if verdict.is_won:
            text = f"{best} has a better {scoring} than every other method: take it."
        elif best == taken:
            others = int(verdict.level.sum()) - 1
            text = (
                f"No winner can be named: {best} has the highest {scoring}. "
                f"{_count(others)} level with it, and none is simpler: take {best}."
            )
        else:
            text = (
                f"No winner can be named: {best} has the highest {scoring}, but "
                f"{taken} is level with it and simpler: take {taken}."
            )
        if BASELINE in names and best != BASELINE:
            mean, low, high = verdict.differences[names.index(BASELINE)]
            text += (
                f" {best} is {mean:.3f} ({low:.3f} to {high:.3f}) above the baseline, "
                f"{BASELINE}."
            )
        means = [
            np.mean(self._results[number].get("worst_inferred_group", np.nan))
            for number in self._scored
        ]
        if not np.isnan(means).all() and names[int(np.argmax(means))] != taken:
            text += (
                f" But in the worst of the groups that were inferred, "
                f"{names[int(np.argmax(means))]} has {max(means):.3f} and {taken} "
                f"{means[verdict.chosen]:.3f}: look whether these groups matter."
            )
        return text


def _count(number):
    return "1 method is" if number == 1 else f"{number} methods are"


def _most_frequent(contender):
    """Return the setting that was chosen on most outer folds, of ties the first."""
    if contender.skipped or not contender.chosen:
        return {}
    counts = np.bincount(contender.chosen, minlength=len(contender.shown))
    return contender.shown[int(counts.argmax())]
