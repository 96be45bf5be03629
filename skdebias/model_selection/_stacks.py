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
from skdebias._head import HeadClassifier, final_head
from skdebias._mapped import take_rows
from skdebias._sklearn import (
    _BaseScorer,
    _check_method_params,
    _MultimetricScorer,
    _PassthroughScorer,
    _safe_indexing,
)
from skdebias._validation import TrainingData
from skdebias.model_selection._counting import Counts
from skdebias.model_selection._scoring import score

# Hyper-parameters of the optimisers that every stack holds as one number per head.
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
    model: object  # the head estimator
    seed: int
    stage: tuple  # what the first stage depends on
    structure: str | None


class _Kind(NamedTuple):
    """What a candidate can share with others, on every split."""

    stage: str | None  # hash of what the first stage reads, if there is one
    structure: str | None  # hash of what all heads of a stack have in common


class _Rows(NamedTuple):
    """Rows of one split as the heads see them."""

    X: object  # validated, all rows of `index`
    y: np.ndarray
    train: np.ndarray  # row numbers in X
    test: np.ndarray
    own: dict  # attributes that validation set on the first head
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
        self._kinds = {}
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
            Stop after so many epochs and keep what :meth:`go_on` needs.

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

    def go_on(self, numbers, until):
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
        stacks = [stack for stack in self._alive if stack.keep(set(numbers))]
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

    def kind(self, number, model, given):
        """Check the parameters of a candidate, and tell what it can share.

        Parameters
        ----------
        number : int
        model : HeadClassifier
        given : bool
            Whether attributes are.

        Returns
        -------
        _Kind
        """
        if number not in self._kinds:
            model._validate_params()
            own = model.get_params(deep=False)
            read = sorted(model._first_stage_parameters(given))
            stage = joblib.hash({name: own[name] for name in read}) if read else None
            structure = None
            if isinstance(model, BaseDebiasedClassifier):
                varying = {*_RATES, *model._stackable, "random_state", "verbose"}
                fixed = {k: v for k, v in own.items() if k not in varying}
                structure = joblib.hash(fixed)
            self._kinds[number] = _Kind(stage, structure)
        return self._kinds[number]

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
            X, y, own = self._whole
            return _Rows(X, y, train, test, own, None), fit_params
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
        X, y, own = _validated(clone(pipeline[-1]), joined, y)
        index = np.arange(len(joined))
        n_train = len(train)
        return _Rows(X, y, index[:n_train], index[n_train:], own, steps), params


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
        self._asks_for_answers = _asks_for_answers(fits._scorers)
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

    def count(self, answers, classes):
        """Score all heads of a stack at once.

        Parameters
        ----------
        answers : dict of str to ndarray of shape (n_rows, n_heads[, n_classes])
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
        scores = [counts(answers[n], classes) for n, counts in self._counts.items()]
        self._counting_time = (time.perf_counter() - start) / len(scores[0])
        return [dict(zip(self._counts, own)) for own in zip(*scores)]

    def _learn_to_count(self, answers, classes, scores):
        """Count from now on if that gives these scores of a head."""
        self._counts = {}
        try:
            counts = {
                name: Counts(self._scorers, self._y[name], self._params[name])
                for name in self._parts
            }
            alone = {n: c(answers[n][:, None], classes)[0] for n, c in counts.items()}
        except (TypeError, ValueError):
            return
        if alone == scores:
            self._counts = counts

    def score(
        self, number, model, steps, answers, fit_time, *, counted=None, twin=None
    ):
        """Score a fitted head.

        Parameters
        ----------
        number : int
            Of the candidate.
        model : HeadClassifier
        steps : Pipeline or None
            Fitted steps before the head.
        answers : dict of str to ndarray, or None
            Decision values of every part, where they are at hand.
        fit_time : float
        counted : dict of str to scores, default=None
            Scores of every part, where :meth:`count` has found them.
        twin : int, default=None
            A candidate that has been scored and gives the same answers.
        """
        start = time.perf_counter()
        if twin is not None and self._asks_for_answers:
            self.results[number] = self.results[twin] | {"score_time": 0.0}
            return
        if counted is not None:
            self._record(number, counted, fit_time, self._counting_time, None)
            return
        estimator = model
        if steps is not None and not self._asks_for_answers:
            # A function may look at the estimator; scorers only want its answers.
            estimator, answers = Pipeline([*steps.steps, ("head", model)]), None
        scores, error = {}, None
        for name, rows in self._parts.items():
            if answers is not None:
                # Scorers that only want answers get row numbers: X is not copied.
                X = rows if self._asks_for_answers else self._X[rows]
                model.decision_function = _Known(model, X, answers[name])
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
        if self._counts is None and answers is not None and self._asks_for_answers:
            self._learn_to_count(answers, model.classes_, scores)
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


class _Known:
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
        self._params = dict(params)
        self._X_student = self._params.pop("X_student", None)
        self._encoded = {}
        self._stages = {}

    @cached_property
    def _seed(self):
        """Seed of the heads without one: with several, each would be a stack."""
        return check_random_state(None).randint(np.iinfo(np.int32).max)

    def stacks(self, members):
        """Yield the stacks of the candidates; fit those that are none here."""
        stacks = {}
        for number, model in members:
            try:
                member, method, groups = self._prepare(number, model)
            except Exception:
                self._split.fail(number)
                self._fits.scored()
                continue
            if method is None:
                self._alone(member)
                continue
            key = (type(model), member.seed, member.stage, member.structure)
            stacks.setdefault(key, (groups, []))[1].append((member, method))
        for groups, stack in stacks.values():
            yield from self._divide(groups, stack)

    def _divide(self, groups, stack):
        """Yield a stack in parts that fit the memory."""
        from skdebias._engine._loss import n_logits

        first, n_heads = stack[0][0].model, stack[0][1].n_heads
        n_out = n_logits(len(first.classes_))
        widths = [self._rows.X.shape[1], *first.hidden_layer_sizes, n_out]
        size = self._fits.most_methods(
            [a * b for a, b in pairwise(widths)],
            sum(widths[1:]),
            len(self._rows.y),
            first,
            n_heads,
            len(stack),
        )
        with_X = getattr(first, "_X_student", None) is not None
        data = self._data(stack[0][0].seed, with_X)
        for start in range(0, len(stack), size):
            members, methods = zip(*stack[start : start + size])
            yield _Stack(
                self._fits,
                self._split,
                self._rows,
                members,
                list(methods),
                groups,
                data,
                self._encoded[first.selection],
                self._features(first.device),
            )

    def _prepare(self, number, model):
        """Bring a head to where its training begins."""
        given = self._params.get("attributes") is not None
        kind = self._fits.kind(number, model, given)
        seed = self._seed if model.random_state is None else model._draw_seed()
        vars(model).update(self._rows.own)
        stage = (type(model), int(seed), kind.stage)
        member = _Member(number, model, int(seed), stage, kind.structure)
        if not isinstance(model, BaseDebiasedClassifier):
            return member, None, None
        data = self._data(member.seed, with_X=kind.stage is not None)
        if hasattr(model, "_validate_X_student"):
            student = self._X_student
            if student is not None:
                student = model._validate_X_student(student, len(self._rows.train))
            model._X_student = student
        groups = self._groups(member, data)
        method = model._make_method(groups)
        if model.solver == "lbfgs":
            self._check_solvable(model, method, groups)
        return member, method, groups

    def _check_solvable(self, model, method, groups):
        """Refuse a problem alone, and not together with all others of its stack."""
        import torch

        from skdebias._engine._lbfgs import check_solvable
        from skdebias.methods import Setting

        y = torch.as_tensor(self._encoded[model.selection][0])
        setting = Setting((groups,), y, torch.device("cpu"))
        check_solvable(method, method.plan(groups), setting)

    @cached_property
    def _X_train(self):
        """The training rows in one piece, for what does not take row numbers."""
        return take_rows(self._rows.X, self._rows.train)

    def _data(self, seed, with_X):
        return TrainingData(
            self._X_train if with_X else None,
            self._rows.y[self._rows.train],
            self._params.get("attributes"),
            self._params.get("X_val"),
            self._params.get("y_val"),
            self._params.get("attributes_val"),
            seed,
        )

    def _groups(self, member, data):
        """Run the first stage, or take over what it taught an equal candidate."""
        model = member.model
        selection = model.selection
        if selection not in self._encoded:
            self._encoded[selection] = (*model._encode(data), model.classes_)
        y_codes, _, model.classes_ = self._encoded[selection]
        if member.stage not in self._stages:
            before = dict(vars(model))
            groups = model._find_groups(data, y_codes)
            learnt = {k: v for k, v in vars(model).items() if k not in before}
            self._stages[member.stage] = groups, learnt
        groups, learnt = self._stages[member.stage]
        vars(model).update(learnt)
        return groups

    def _alone(self, member):
        """Fit a head that the engine does not train."""
        rows, model = self._rows, member.model
        start = time.perf_counter()
        try:
            model.fit(self._X_train, rows.y[rows.train], **self._params)
        except Exception:
            self._split.fail(member.number)
        else:
            seconds = time.perf_counter() - start
            self._split.score(member.number, model, rows.steps, None, seconds)
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

    def __init__(
        self, fits, split, rows, members, methods, groups, data, encoded, features
    ):
        self._fits, self._split, self._rows = fits, split, rows
        self._members, self._n_heads = members, methods[0].n_heads
        self._features = features
        self._start = partial(self._started, methods, groups, data, encoded)
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
        if self._fit is None:
            self._fit, self._start = self._start(), None
        fitted = self._fit.run(until)
        if until is None:
            self._fit = None  # the state of training is larger than the heads
        self._answers = None
        if self._X_student is None:
            self._answers = self._answered(fitted.stack, self._n_heads)
        self._diverged = fitted.diverged.reshape(len(self._members), -1).max(1)
        self._source = fitted.source
        self._seconds = (time.perf_counter() - start) / len(self._members)

    def _started(self, methods, groups, data, encoded):
        """Bring the heads to the first step."""
        from skdebias._fit import StackFit

        rows, models = self._rows, [member.model for member in self._members]
        _, validation, classes = encoded
        codes = np.searchsorted(classes, rows.y).clip(max=len(classes) - 1)
        where = {"features": self._features, "rows": rows.train}
        students = [vars(model).pop("_X_student", None) for model in models]
        self._X_student = students[0]
        if self._X_student is not None:
            # The two embeddings are joined for the training rows alone.
            codes, where = codes[rows.train], {"X_student": self._X_student}
        return StackFit(
            models,
            methods,
            data,
            codes,
            groups,
            validation=validation,
            tolerate=True,
            **where,
        )

    def score(self):
        """Score the trained heads."""
        from skdebias._engine._sgd import divergence

        if self._error is not None:
            self._fail()
            return
        answers, self._answers = self._answers, None
        counted = None
        for m, member in enumerate(self._members):
            number, model = member.number, member.model
            if self._diverged[m]:
                try:
                    raise divergence(int(self._diverged[m]), model.learning_rate)
                except FloatingPointError:
                    self._split.fail(number)
            else:
                model._finish()
                own = answers and {name: a[:, m] for name, a in answers.items()}
                twin = None
                if self._source is not None and self._source[m] != m:
                    twin = self._members[self._source[m]].number
                if counted is None and answers:
                    counted = self._split.count(answers, model.classes_)
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

    def keep(self, numbers):
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
            self._fit.keep(left)
        return bool(left)

    def _answered(self, stack, n_heads):
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
    before = set(vars(model))
    X, y = model._validate_fit_input(X, y)
    own = {k: v for k, v in vars(model).items() if k not in before}
    return X, y, own


def _asks_for_answers(scorers):
    """Whether scorers only call the estimator's response methods."""
    if isinstance(scorers, _MultimetricScorer):
        return all(map(_asks_for_answers, scorers._scorers.values()))
    return isinstance(scorers, (_BaseScorer, _PassthroughScorer))
