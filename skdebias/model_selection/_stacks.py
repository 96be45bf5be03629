"""The fits of one cross-validation split, gathered into stacks of heads."""

import time
from functools import cached_property, partial
from itertools import pairwise
from traceback import format_exc
from typing import NamedTuple

import joblib
import numpy as np
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import get_routing_for_object, process_routing
from tqdm import tqdm

from skdebias._base import BaseDebiasedClassifier
from skdebias._head import VALIDATED, HeadClassifier, final_head
from skdebias._mapped import take_rows
from skdebias._prepare import Prepared, encode, prepare, run_first_stage
from skdebias._sklearn import (
    _BaseScorer,
    _check_method_params,
    _MultimetricScorer,
    _PassthroughScorer,
    _safe_indexing,
)
from skdebias.model_selection._counting import Counts
from skdebias.model_selection._scoring import score

# Arguments of `fit` beside X and y.
_GIVEN = ("attributes", "X_val", "y_val", "attributes_val")
# Hyper-parameters of the optimizers that every stack holds as one number per head.
_RATES = ("learning_rate", "weight_decay", "momentum")
# Bytes that a stack may take with max_heads="auto". As many stacks as there are threads
# train at once.
_STACK_BYTES = 1 << 28
_SCORED_ROWS = 16384
# Multiply-adds of a step from which a part of a stack is worth a thread of its own, and
# the stacks of all splits that large ones are divided into: whatever the number of
# threads is, or a result would depend on it.
_PART_WORK = 16_000_000
_PARTS = 16


def check_stackable(estimator, search):
    """Refuse an estimator that is not a head of this package.

    Parameters
    ----------
    estimator : object
    search : str
        Named in the message.

    Raises
    ------
    ValueError
    """
    final = final_head(estimator)
    if not isinstance(final, HeadClassifier):
        raise ValueError(
            f"estimator={final!r} cannot be trained in stacks: {search} takes head "
            "estimators of skdebias, alone or at the end of a Pipeline. Use "
            "sklearn.model_selection.GridSearchCV for others."
        )


class _Member(NamedTuple):
    """A candidate on its way through one split."""

    number: int
    model: HeadClassifier
    prepared: Prepared


class _Rows(NamedTuple):
    """Rows of one split as the heads see them."""

    X: object  # validated, all rows of `index`
    y: np.ndarray
    train: np.ndarray  # row numbers in X
    test: np.ndarray
    validated: dict  # attributes that validation sets on a head
    steps: Pipeline | None


class SplitFits:
    """Fits and scores all candidates on one split after the other.

    Parameters
    ----------
    estimator : HeadClassifier, or Pipeline that ends in one
    candidates : list of dict
    scorers : callable
        What scikit-learn's searches call with an estimator, X and y.
    max_heads : int or "auto"
    return_train_score : bool
    error_score : "raise" or float
    verbose : int
    report : callable
        Called once for every fit that has been scored.
    """

    def __init__(
        self,
        estimator,
        candidates,
        scorers,
        *,
        max_heads,
        return_train_score,
        error_score,
        verbose,
        report,
    ):
        self._estimator = estimator
        self._candidates = candidates
        self._scorers = scorers
        self._max_heads = max_heads
        self._return_train_score = return_train_score
        self._error_score = error_score
        self._verbose = verbose
        self._report = report
        self._whole = None
        self._stage_keys, self._structure_keys = {}, {}
        #: X and its features by device, of the last X only.
        self.features = {}

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
        self._splits = [
            _Split(self, X, y, train, test, score_params) for train, test in splits
        ]
        # The deterministic solver divides the rows of a stack, and not its heads.
        whole = getattr(head, "solver", None) == "lbfgs"
        self._n_stacks = len(splits) if whole else max(len(splits), _PARTS)
        stacks = self._stacks(X, y, splits, fit_params)
        return self._trained(stacks, range(len(self._candidates)), until)

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
        for split in self._splits:
            split.restart()
        stacks = [stack for stack in self._alive if stack.select(set(numbers))]
        return self._trained(stacks, numbers, until)

    def _trained(self, stacks, numbers, until):
        from skdebias._engine._threads import parallel_map

        self._alive = []
        with tqdm(
            total=sum(
                split.results[n] is None for split in self._splits for n in numbers
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
                    self._alive.append(stack)
        return [split.results[number] for number in numbers for split in self._splits]

    def scored(self):
        """Tell that a fit has been scored, or has failed."""
        self._bar.update()
        self._report()

    def _stacks(self, X, y, splits, fit_params):
        """Yield the stacks of all splits."""
        for (train, test), split in zip(splits, self._splits):
            own_params = _check_method_params(X, params=fit_params, indices=train)
            for pipeline, members in self._by_steps():
                rows, params = self._rows(X, y, train, test, pipeline, own_params)
                yield from _Fold(self, split, rows, params).stacks(members)

    def most_methods(self, layer_sizes, n_outputs, n_rows, model, n_heads, n_methods):
        """Divide methods into stacks; return how many one of them holds at most.

        Parameters
        ----------
        layer_sizes : list of int
            Weights of every layer of a head.
        n_outputs : int
            Outputs of all layers.
        n_rows : int
            Rows that are scored.
        model : BaseDebiasedClassifier
        n_heads : int
            Heads of a method.
        n_methods : int

        Returns
        -------
        int
        """
        most = n_methods
        if self._max_heads == "auto":
            # Weights, gradients, two moments, kept ones; activations and what follows.
            # The deterministic solver remembers 20 steps and gradients in double.
            copies = 100 if model.solver == "lbfgs" else 6
            floats = copies * sum(layer_sizes) + 16 * model.batch_size * n_outputs
            floats += 3 * min(n_rows, 4 * _SCORED_ROWS) * n_outputs
            most = _STACK_BYTES // (4 * floats * n_heads)
        else:
            most = self._max_heads // n_heads
        n_stacks = -(-n_methods // max(1, most))
        if model.solver != "lbfgs":  # which divides the rows
            work = model.batch_size * sum(layer_sizes) * n_heads * n_methods
            n_parts = -(-_PARTS // len(self._splits))
            n_stacks = max(n_stacks, min(n_parts, work // _PART_WORK))
        return -(-n_methods // n_stacks)

    def stage_key(self, number, model, attributes_given):
        """Check the parameters of a candidate; return what its first stage reads.

        Parameters
        ----------
        number : int
        model : HeadClassifier
        attributes_given : bool

        Returns
        -------
        str or None
            A hash, equal for candidates whose first stages are. None if there is none.
        """
        if number not in self._stage_keys:
            model._validate_params()
            parameters = model.get_params(deep=False)
            read = sorted(model._first_stage_parameters(attributes_given))
            key = joblib.hash({name: parameters[name] for name in read})
            self._stage_keys[number] = key if read else None
        return self._stage_keys[number]

    def structure_key(self, number, model, method):
        """Return what all heads of a stack have in common.

        Parameters
        ----------
        number : int
            Candidate.
        model : BaseDebiasedClassifier
        method : Method
            Of the candidate.

        Returns
        -------
        str
            A hash.
        """
        if number not in self._structure_keys:
            varying = {*_RATES, *method.stackable, "random_state", "verbose"}
            fixed = {
                name: value.fixed_fields() if isinstance(value, type(method)) else value
                for name, value in model.get_params(deep=False).items()
                if name not in varying
            }
            self._structure_keys[number] = joblib.hash([type(method), fixed])
        return self._structure_keys[number]

    def _by_steps(self):
        """Group candidates by the settings of the steps before the head."""
        groups = {}
        for number, candidate in enumerate(self._candidates):
            full = clone(self._estimator)
            full.set_params(**clone(candidate, safe=False))
            pipeline, model, key = None, full, None
            if isinstance(full, Pipeline):
                pipeline, model = full, full[-1]
                key = joblib.hash(
                    [(s, type(t), t.get_params()) for s, t in full[:-1].steps]
                )
            check_stackable(model, "a batched search")
            groups.setdefault(key, (pipeline, []))[1].append((number, model))
        return groups.values()

    def _rows(self, X, y, train, test, pipeline, fit_params):
        """Validate the rows; fit and apply the steps before the head."""
        if pipeline is None:
            if self._whole is None:
                self._whole = _validated(clone(self._estimator), X, y)
            X, y, validated = self._whole
            return _Rows(X, y, train, test, validated, None), fit_params
        params = process_routing(pipeline, "fit", **fit_params)[pipeline.steps[-1][0]]
        params = dict(params.fit)
        steps, y = pipeline[:-1], np.asarray(y)
        wanted = get_routing_for_object(steps).consumes("fit_transform", fit_params)
        parts = [
            steps.fit_transform(
                _safe_indexing(X, train),
                y[train],
                **{name: fit_params[name] for name in wanted},
            ),
            steps.transform(_safe_indexing(X, test)),
        ]
        for name in {"X_val", *(pipeline.transform_input or ())} & set(params):
            params[name] = steps.transform(params[name])
        joined = np.concatenate([np.asarray(part) for part in parts])
        y = np.concatenate([y[train], y[test]])
        X, y, validated = _validated(clone(pipeline[-1]), joined, y)
        index = np.arange(len(joined))
        n_train = len(train)
        return _Rows(X, y, index[:n_train], index[n_train:], validated, steps), params


class _Split:
    """Scores and results of one split."""

    def __init__(self, fits, X, y, train, test, score_params):
        self.results = [None] * len(fits._candidates)
        self._error_score = fits._error_score
        self._scorers = fits._scorers
        self._parts = {"test": test}
        if fits._return_train_score:
            self._parts["train"] = train
        self._y = {name: _safe_indexing(y, i) for name, i in self._parts.items()}
        self._X = _Part(X)
        self._uses_predictions_only = _uses_predictions_only(fits._scorers)
        self._checked = False
        #: Counts of every part; None until the scorers were asked, empty if no help.
        self._counts = None
        self._params = {
            name: _check_method_params(X, params=score_params, indices=i)
            for name, i in self._parts.items()
        }

    def restart(self):
        """Forget all results but those of failed fits."""
        self.results = [r if r and r["fit_error"] else None for r in self.results]

    def fail(self, number):
        """Record the exception that is being handled."""
        if self._error_score == "raise":
            raise  # noqa: PLE0704
        scores = self._error_score
        if isinstance(self._scorers, _MultimetricScorer):
            scores = dict.fromkeys(self._scorers._scorers, scores)
        self._record(number, dict.fromkeys(self._parts, scores), 0, 0, format_exc())

    def count(self, decision_values, classes):
        """Score all heads of a stack at once.

        Parameters
        ----------
        decision_values : dict of str to ndarray of shape (n_rows, n_heads[, n_classes])
            Decision values of every part.
        classes : ndarray of shape (n_classes,)

        Returns
        -------
        list of dict of str to scores, or None
            What :meth:`score` takes, for every head; None until it has been called
            once, or if the scorers do more than to count correct predictions.
        """
        if not self._counts:
            return None
        start = time.perf_counter()
        scores = [
            counts(decision_values[n], classes) for n, counts in self._counts.items()
        ]
        self._counting_time = (time.perf_counter() - start) / len(scores[0])
        return [dict(zip(self._counts, own)) for own in zip(*scores)]

    def _enable_counting(self, decision_values, classes, scores):
        """Count from now on if that gives these scores of a head."""
        self._counts = {}
        try:
            counts = {
                name: Counts(self._scorers, self._y[name], self._params[name])
                for name in self._parts
            }
            alone = {
                n: c(decision_values[n][:, None], classes)[0] for n, c in counts.items()
            }
        except (TypeError, ValueError):
            return
        if alone == scores:
            self._counts = counts

    def score(
        self,
        number,
        model,
        steps,
        decision_values,
        fit_time,
        *,
        counted=None,
        twin=None,
    ):
        """Score a fitted head.

        Parameters
        ----------
        number : int
            Of the candidate.
        model : HeadClassifier
        steps : Pipeline or None
            Fitted steps before the head.
        decision_values : dict of str to ndarray, or None
            Decision values of every part, where they are at hand.
        fit_time : float
        counted : dict of str to scores, default=None
            Scores of every part, where :meth:`count` has found them.
        twin : int, default=None
            A candidate that has been scored and gives the same answers.
        """
        start = time.perf_counter()
        if twin is not None and self._uses_predictions_only:
            self.results[number] = self.results[twin] | {"score_time": 0.0}
            return
        if counted is not None:
            self._record(number, counted, fit_time, self._counting_time, None)
            return
        estimator = model
        if steps is not None and not self._uses_predictions_only:
            # A function may look at the estimator; scorers only want its answers.
            estimator, decision_values = Pipeline([*steps.steps, ("head", model)]), None
        scores, error = {}, None
        for name, rows in self._parts.items():
            if decision_values is not None:
                # Scorers that only want answers get row numbers: X is not copied.
                X = rows if self._uses_predictions_only else self._X[rows]
                model.decision_function = _CachedDecision(
                    model, X, decision_values[name]
                )
            else:
                X = self._X[rows]
                if estimator is model and steps is not None:
                    X = steps.transform(X)
            try:
                # The scorers' own parameters are the same for every candidate.
                with config_context(skip_parameter_validation=self._checked):
                    scores[name], failed = score(
                        estimator,
                        X,
                        self._y[name],
                        self._scorers,
                        self._params[name],
                        self._error_score,
                    )
                    error = error or failed
            finally:
                vars(model).pop("decision_function", None)
        self._checked = True
        if (
            self._counts is None
            and decision_values is not None
            and self._uses_predictions_only
        ):
            self._enable_counting(decision_values, model.classes_, scores)
        seconds = time.perf_counter() - start
        self._record(number, scores, fit_time, seconds, None, error)

    def _record(self, number, scores, fit_time, score_time, error, score_error=None):
        result = {
            "test_scores": scores["test"],
            "n_test_samples": len(self._parts["test"]),
            "fit_time": fit_time,
            "score_time": score_time,
            "fit_error": error,
            "score_error": score_error,
        }
        if "train" in scores:
            result["train_scores"] = scores["train"]
        self.results[number] = result


class _Part:
    """Rows of X, copied when they are first asked for and kept until others are."""

    def __init__(self, X):
        self._X, self._rows, self._part = X, None, None

    def __getitem__(self, rows):
        if rows is not self._rows:
            self._rows, self._part = rows, _safe_indexing(self._X, rows)
        return self._part


class _CachedDecision:
    """Decision function that knows the answer for one X."""

    def __init__(self, model, X, values):
        self._model, self._X, self._values = model, X, values

    def __call__(self, X):
        if X is self._X:
            return self._values
        return type(self._model).decision_function(self._model, X)


class _Fold:
    """Heads that see the same rows, on their way into stacks."""

    def __init__(self, fits, split, rows, params):
        self._fits, self._split, self._rows = fits, split, rows
        self._params = {**dict.fromkeys(_GIVEN), **params}
        self._encoded = {}
        self._stages = {}

    @cached_property
    def _seed(self):
        """Seed of the heads without one: with several, each would be a stack."""
        return check_random_state(None).randint(np.iinfo(np.int32).max)

    def stacks(self, candidates):
        """Yield the stacks of the candidates; fit those that are none here."""
        stacks = {}
        for number, model in candidates:
            try:
                key, member = self._prepare(number, model)
            except Exception:
                self._split.fail(number)
                self._fits.scored()
                continue
            if member is None:
                self._fit_alone(number, model)
            else:
                stacks.setdefault(key, []).append(member)
        for members in stacks.values():
            yield from self._divide(members)

    def _divide(self, members):
        """Yield a stack in parts that fit the memory."""
        from skdebias._engine._loss import n_logits

        first, prepared = members[0].model, members[0].prepared
        n_out = n_logits(len(prepared.classes))
        widths = [self._rows.X.shape[1], *first.hidden_layer_sizes, n_out]
        size = self._fits.most_methods(
            [a * b for a, b in pairwise(widths)],
            sum(widths[1:]),
            len(self._rows.y),
            first,
            prepared.method.n_heads,
            len(members),
        )
        for start in range(0, len(members), size):
            yield _Stack(
                self._fits,
                self._split,
                self._rows,
                members[start : start + size],
                self._features(first.device),
            )

    def _prepare(self, number, model):
        """Bring a head to where its training begins.

        Returns
        -------
        key : tuple
            Equal for the heads of one stack.
        member : _Member or None
            None for a head that the engine does not train.
        """
        attributes_given = self._params["attributes"] is not None
        stage_key = self._fits.stage_key(number, model, attributes_given)
        seed = self._seed if model.random_state is None else model._draw_seed()
        vars(model).update(self._rows.validated)
        if not isinstance(model, BaseDebiasedClassifier):
            return None, None
        data = self._data(model, int(seed), with_X=stage_key is not None)
        if model.selection not in self._encoded:
            self._encoded[model.selection] = encode(model, data)
        encoded = self._encoded[model.selection]
        stage_key = type(model), int(seed), stage_key
        if stage_key not in self._stages:
            self._stages[stage_key] = run_first_stage(model, data, encoded)
        prepared = prepare(model, data, encoded, self._stages[stage_key])
        if model.solver == "lbfgs":
            self._check_solvable(prepared)
        structure = self._fits.structure_key(number, model, prepared.method)
        return (stage_key, structure), _Member(number, model, prepared)

    def _check_solvable(self, prepared):
        """Refuse a problem alone, and not together with all others of its stack."""
        import torch

        from skdebias._engine._lbfgs import check_solvable
        from skdebias.methods import TrainingContext

        method, groups = prepared.method, prepared.groups
        y = torch.as_tensor(prepared.y_codes)
        context = TrainingContext((groups,), y, torch.device("cpu"))
        check_solvable(method, method.plan(groups), context)

    @cached_property
    def _X_train(self):
        """The training rows in one piece, for what does not take row numbers."""
        return take_rows(self._rows.X, self._rows.train)

    def _data(self, model, seed, *, with_X):
        with_X = with_X or self._params.get("X_student") is not None
        return model._training_data(
            self._X_train if with_X else None,
            self._rows.y[self._rows.train],
            seed=seed,
            **self._params,
        )

    def _fit_alone(self, number, model):
        """Fit a head that the engine does not train."""
        rows = self._rows
        start = time.perf_counter()
        try:
            model.fit(self._X_train, rows.y[rows.train], **self._params)
        except Exception:
            self._split.fail(number)
        else:
            seconds = time.perf_counter() - start
            self._split.score(number, model, rows.steps, None, seconds)
        self._fits.scored()

    def _features(self, device):
        """Features of all rows; over splits of the same X they are made once."""
        from skdebias._engine._features import Features
        from skdebias._fit import resolve_device

        X, kept = self._rows.X, self._fits.features
        if device not in kept or kept[device][0] is not X:
            kept.clear()
            kept[device] = X, Features(X, resolve_device(device))
        return kept[device][1]


class _Stack:
    """Heads that are trained as one, and scored one by one."""

    def __init__(self, fits, split, rows, members, features):
        self._fits, self._split, self._rows = fits, split, rows
        self._members, self._features = members, features
        self._n_heads = members[0].prepared.method.n_heads
        self._joined = members[0].prepared.data.X_student is not None
        self._begun = False
        self._fit = self._error = None

    def train(self, until=None):
        """Train the heads and let them answer; safe in any thread.

        Parameters
        ----------
        until : int, default=None
            Stop after so many epochs in all, ready to go on.

        Returns
        -------
        _Stack
        """
        try:
            self._train(until)
        except Exception as error:
            # Told by `score`, in the calling thread.
            self._fit, self._error = None, error
        return self

    def _train(self, until):
        start = time.perf_counter()
        if not self._begun:
            self._fit, self._begun = self._started(), True
        self._trained = self._fit.run(until)
        fitted = self._fit.fitted
        if until is None:
            self._fit = None  # the state of training is larger than the heads
        self._decision_values = None
        if not self._joined:
            self._decision_values = self._decide(fitted.stack, self._n_heads)
        self._diverged = fitted.diverged.reshape(len(self._members), -1).max(1)
        self._source = fitted.source
        self._seconds = (time.perf_counter() - start) / len(self._members)

    def _started(self):
        """Bring the heads to the first step."""
        from skdebias._fit import StackFit

        rows, prepared = self._rows, [member.prepared for member in self._members]
        where = {}
        if not self._joined:
            classes = prepared[0].classes
            codes = np.searchsorted(classes, rows.y).clip(max=len(classes) - 1)
            where = {"features": self._features, "rows": rows.train, "codes": codes}
        # Otherwise the two embeddings are joined, for the training rows alone.
        return StackFit(
            [member.model for member in self._members],
            prepared,
            allow_divergence=True,
            **where,
        )

    def score(self):
        """Score the trained heads."""
        from skdebias._engine._sgd import divergence

        if self._error is not None:
            self._fail()
            return
        decision_values, self._decision_values = self._decision_values, None
        counted = None
        for m, (member, trained) in enumerate(zip(self._members, self._trained)):
            number, model = member.number, member.model
            if self._diverged[m]:
                try:
                    raise divergence(int(self._diverged[m]), model.learning_rate)
                except FloatingPointError:
                    self._split.fail(number)
            else:
                model._set_fitted(member.prepared.learned | trained.attributes)
                member.prepared.method.check_result(trained.result)
                own = decision_values and {
                    name: a[:, m] for name, a in decision_values.items()
                }
                twin = None
                if self._source is not None and self._source[m] != m:
                    twin = self._members[self._source[m]].number
                if counted is None and decision_values:
                    counted = self._split.count(decision_values, model.classes_)
                self._split.score(
                    *(number, model, self._rows.steps, own, self._seconds),
                    counted=counted and counted[m],
                    twin=twin,
                )
            self._fits.scored()

    def _fail(self):
        """Record what ended the training of all heads."""
        for member in self._members:
            try:
                raise self._error
            except Exception:
                self._split.fail(member.number)
            self._fits.scored()

    def select(self, numbers):
        """Drop the heads of other candidates and those that diverged.

        Parameters
        ----------
        numbers : set of int

        Returns
        -------
        bool
            Whether any are left.
        """
        if self._error is not None:
            return False
        left = [
            m
            for m, member in enumerate(self._members)
            if member.number in numbers and not self._diverged[m]
        ]
        if left:
            self._members = [self._members[m] for m in left]
            self._fit.select(left)
        return bool(left)

    def _decide(self, stack, n_heads):
        """Decision values (n_rows, n_models[, n_classes]) of the parts to score."""
        import torch

        found = {}
        parts = {"test": self._rows.test}
        if self._fits._return_train_score:
            parts["train"] = self._rows.train
        for name, rows in parts.items():
            blocks = []
            for start in range(0, len(rows), _SCORED_ROWS):
                index = torch.as_tensor(rows[start : start + _SCORED_ROWS])[None]
                logits, _ = stack.forward(self._features.rows(index))
                blocks.append(logits[0, :, n_heads - 1 :: n_heads].cpu().numpy())
            values = np.concatenate(blocks)
            found[name] = values[..., 0] if values.shape[2] == 1 else values
        return found


def _validated(model, X, y):
    """Check X and y as `fit` would; return them and what that set on the head."""
    model = final_head(model)
    X, y = model._validate_fit_input(X, y)
    names = [name for name in VALIDATED if hasattr(model, name)]
    return X, y, {name: getattr(model, name) for name in names}


def _uses_predictions_only(scorers):
    """Whether scorers only call the estimator's response methods."""
    if isinstance(scorers, _MultimetricScorer):
        return all(map(_uses_predictions_only, scorers._scorers.values()))
    return isinstance(scorers, (_BaseScorer, _PassthroughScorer))
