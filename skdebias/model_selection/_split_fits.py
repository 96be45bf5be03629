"""The fits of a search, one cross-validation split after the other."""

from functools import partial

from tqdm import tqdm

from skdebias._head import final_head
from skdebias._sklearn import _check_method_params
from skdebias.model_selection._candidates import CandidateKeys, group_by_preprocessing
from skdebias.model_selection._fold import FeatureCache, Fold, StackingContext
from skdebias.model_selection._split_rows import RowPreparer
from skdebias.model_selection._split_scores import SplitScores
from skdebias.model_selection._stack_limits import StackLimits, n_parallel_stacks


class SplitFits:
    """Fits and scores all candidates on one split after the other.

    Parameters
    ----------
    estimator : HeadClassifier, or Pipeline that ends in one
    candidates : list of dict
    scoring : ScoringConfig
    max_heads : int or "auto"
    verbose : int
    report : callable
        Called once for every fit that has been scored.
    """

    def __init__(self, estimator, candidates, scoring, *, max_heads, verbose, report):
        self._estimator = estimator
        self._candidates = candidates
        self._scoring = scoring
        self._max_heads = max_heads
        self._verbose = verbose
        self._report = report

    def run(self, X, y, splits, fit_params, score_params, until=None):
        """Fit and score every candidate on every split.

        Parameters
        ----------
        X, y : array-like
            All rows.
        splits : list of (ndarray, ndarray)
            Row numbers for training and for scoring.
        fit_params, score_params : dict
            For all rows, as routed to the estimator and to the scorers.
        until : int, default=None
            Stop after so many epochs and keep what :meth:`resume` needs.

        Returns
        -------
        list of dict
            What `sklearn.model_selection._validation._fit_and_score` returns for the
            splits of the first candidate, then for those of the second, and so on.
        """
        from skdebias._engine._threads import available_threads
        from skdebias._fit import resolve_device

        head = final_head(self._estimator)
        device = resolve_device(getattr(head, "device", "cpu"))
        self._n_threads = available_threads() if device.type == "cpu" else 1
        n_candidates = len(self._candidates)
        self._scores = [
            SplitScores(self._scoring, n_candidates, X, y, train, test, score_params)
            for train, test in splits
        ]
        self._n_stacks = n_parallel_stacks(len(splits), getattr(head, "solver", None))
        stacks = self._stacks(X, y, splits, fit_params)
        return self._train(stacks, range(n_candidates), until)

    def resume(self, numbers, until):
        """Train some candidates further, from where they are, and drop the others.

        Parameters
        ----------
        numbers : sequence of int
            Candidates. Fits that have failed stay so.
        until : int
            Epochs in all.

        Returns
        -------
        list of dict
            As of :meth:`run`, with the times of these epochs.
        """
        for scores in self._scores:
            scores.restart()
        stacks = [stack for stack in self._resumable if stack.select(set(numbers))]
        return self._train(stacks, numbers, until)

    def _train(self, stacks, numbers, until):
        """Train and score stacks; return the results of the candidates."""
        from skdebias._engine._threads import parallel_map

        self._resumable = []
        with tqdm(
            total=sum(
                scores.results[number] is None
                for scores in self._scores
                for number in numbers
            ),
            desc=None if until is None else f"{until} epochs",
            unit="fit",
            disable=not self._verbose,
        ) as self._bar:
            # Stacks of different splits share no rows, but they train side by side at
            # full width; the next one is prepared, and the last one scored, meanwhile.
            training = (partial(stack.train, until) for stack in stacks)
            for stack in parallel_map(training, self._n_threads, self._n_stacks):
                stack.score()
                if until is not None:
                    self._resumable.append(stack)
        return [scores.results[number] for number in numbers for scores in self._scores]

    def _on_scored(self):
        """Tell that a fit has been scored, or has failed."""
        self._bar.update()
        self._report()

    def _stacks(self, X, y, splits, fit_params):
        """Yield the stacks of all splits."""
        preparer = RowPreparer(self._estimator, X, y)
        context = StackingContext(
            CandidateKeys(),
            FeatureCache(),
            StackLimits(self._max_heads, len(splits)),
            self._on_scored,
        )
        for (train, test), scores in zip(splits, self._scores):
            of_split = _check_method_params(X, params=fit_params, indices=train)
            groups = group_by_preprocessing(self._estimator, self._candidates)
            for pipeline, candidates in groups:
                rows, of_head = preparer.prepare(train, test, pipeline, of_split)
                yield from Fold(context, scores, rows, of_head).stacks(candidates)
