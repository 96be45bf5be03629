"""From an estimator's parameters to the engine and back."""

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skdebias._auto import warn_of_ineffective, with_numbers
from skdebias._choice import choice_attributes, choose, default_decay, with_choices
from skdebias._device import resolve_device
from skdebias._engine._features import AppendedFeatures, Features, JoinedFeatures
from skdebias._engine._lbfgs import solve
from skdebias._engine._problem import Fitted, OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer, Stopping
from skdebias._engine._sgd import Training
from skdebias._head import HEAD_ATTRIBUTES
from skdebias._starts import check_anchors, hidden_layer_sizes, warm_start
from skdebias._validation import VALIDATED, rows_to_learn_from
from skdebias._warnings import warn_caller
from skdebias.methods import Method
from skdebias.methods._checks import check_learned
from skdebias.methods._networks import refuse_without_network


class Trained(NamedTuple):
    """What training gave one estimator.

    Parameters
    ----------
    attributes : dict of str to object
        Fitted attributes.
    result : Fitted
        What its method may look at.
    method : skdebias.methods.Method
        What was trained.
    """

    attributes: dict
    result: Fitted
    method: Method


class StackFit:
    """Estimators whose heads are trained as one stack.

    Parameters
    ----------
    estimators : list of BaseDebiasedClassifier
        Alike but for what a stack can hold side by side: the optimizer's rates and
        what their methods call `stackable`. What else is read of them is read of the
        first.
    prepared : list of Prepared
        One per estimator, with methods of one class, and the same but for them.
    codes : ndarray of shape (n_rows,), default=None
        Class codes of all rows of `features`; None is those of the training rows.
    task : FitTask, default=None
        Told of every epoch of the first estimator.
    features : Features or JoinedFeatures, default=None
        Rows to train on, if they are already at hand.
    rows : ndarray, default=None
        Which of the `features` the local rows are; None for all of them.
    allow_divergence : bool, default=False
        Let single heads diverge.
    """

    def __init__(
        self,
        estimators,
        prepared,
        *,
        codes=None,
        task=None,
        features=None,
        rows=None,
        allow_divergence=False,
    ):
        given = estimators
        estimators = [
            with_numbers(estimator, groups_known=not one.stage.inferred)
            for estimator, one in zip(estimators, prepared)
        ]
        self._prepared, self._choices = prepared, [None] * len(prepared)
        first, shared = estimators[0], prepared[0]
        self._first, self._shared, self._task = first, shared, task
        methods = [one.method for one in prepared]
        for method in methods:
            refuse_without_network(method)
        self._n_heads = methods[0].n_heads
        device = resolve_device(first.device)
        X_student = shared.data.X_student
        for pair in zip(estimators, prepared):
            check_anchors(*pair)
        starts = [warm_start(*pair) for pair in zip(estimators, prepared)]
        codes = shared.y_codes if codes is None else codes
        if features is None:
            features = _features(shared.data.X, X_student, device)
        X_unlabeled = shared.data.X_unlabeled
        n_unlabeled = 0 if X_unlabeled is None else len(X_unlabeled)
        seen = None
        further = []
        if n_unlabeled:
            further.append((X_unlabeled, np.full(n_unlabeled, -1)))
        if methods[0].uses_validation:
            name = type(methods[0]).__name__
            X_seen, y_seen, seen = rows_to_learn_from(shared.validation, name)
            further.append((X_seen, y_seen))
        for X_more, y_more in further:
            numbers = np.arange(len(y_more)) + features.n_rows
            rows = np.arange(features.n_rows) if rows is None else rows
            rows = np.concatenate([rows, numbers])
            codes = np.concatenate([codes, y_more])
            features = AppendedFeatures(features, Features(X_more, device))
        problem = Problem(
            methods,
            shared.groups,
            shared.data.seed,
            rows,
            initial=None if starts[0] is None else [*chain(*starts)],
            n_unlabeled=n_unlabeled,
            validation=seen,
        )
        scorer = _validation_scorer(shared.validation, device, X_student)
        task_data = features, codes.astype(np.int64), len(shared.classes)
        self._training = None
        if first.solver == "lbfgs":
            if given[0].solver == "auto":
                warn_of_ineffective(given[0])
            self._solve = partial(
                self._choose_and_solve, estimators, task_data, problem, scorer
            )
            return
        config = _optimizer_config(estimators, methods)
        self._training = Training(
            *task_data,
            [problem],
            config,
            validation=scorer,
            stopping=Stopping(first.early_stopping, first.tol, first.n_iter_no_change),
            allow_divergence=allow_divergence,
        )

    def run(self, until=None):
        """Train the stack.

        Parameters
        ----------
        until : int, default=None
            Stop after so many epochs in all, to go on in the next call. None is
            `max_iter`, and the only choice of a solver that has no epochs.

        Returns
        -------
        list of Trained
            One per estimator.
        """
        if self._training is None:
            self.fitted = self._solve()
            _warn_if_unsolved(self.fitted, self._first)
        else:
            observer = _Observer(
                self._first, self._shared, self._task, self._training.epoch
            )
            with observer:
                self.fitted = self._training.run(
                    until, on_epoch_begin=observer.begin, on_epoch_end=observer.end
                )
        return [
            _trained(one, self.fitted.part(position, self._n_heads), choice)
            for position, (one, choice) in enumerate(zip(self._prepared, self._choices))
        ]

    def _choose_and_solve(self, estimators, data, problem, scorer):
        """Choose what "auto" leaves open, and solve for what is chosen."""
        config = _optimizer_config(estimators, problem.methods)
        self._choices = choose(
            estimators, self._prepared, data, problem, config, scorer
        )
        problem, config = with_choices(problem, config, self._choices, data)
        return solve(*data, problem, config, tol=self._first.tol, validation=scorer)

    def select(self, positions):
        """Go on with some of the estimators; the heads of the others are dropped.

        Parameters
        ----------
        positions : list of int
            Among the estimators that are left. Their solver has epochs.
        """
        self._prepared = [self._prepared[position] for position in positions]
        self._training.select(positions)


def _warn_if_unsolved(fitted, estimator):
    unsolved = fitted.gradient > estimator.tol
    if unsolved.any():
        warn_caller(
            f"L-BFGS stopped with {unsolved.sum()} of {len(unsolved)} heads unsolved: "
            f"the largest entry of a gradient is {fitted.gradient.max():.2g}, and "
            f"tol={estimator.tol:g}. Raise max_iter (now {estimator.max_iter}), or "
            "standardise X.",
            ConvergenceWarning,
        )


def _trained(prepared, result, choice):
    """Return what training gave one estimator."""
    chosen = {}
    if choice is not None:
        prepared = replace(prepared, method=choice.best.method)
        chosen = choice_attributes(choice)
    return Trained(
        {
            **heads_attributes(prepared.method.heads, result),
            **training_attributes(prepared, result),
            **chosen,
        },
        # The weights are in the attributes: of a stack, they would be kept whole.
        replace(result, stack=None),
        prepared.method,
    )


def heads_attributes(heads, result):
    """Return the fitted attributes of all heads of a method, and of the result.

    Parameters
    ----------
    heads : sequence of Head
    result : Fitted
        Of these heads.

    Returns
    -------
    dict
    """
    attributes = {}
    for position, head in enumerate(heads):
        attributes |= head_attributes(result.stack, position, head.prefix)
    if heads[result.result].name:
        attributes |= head_attributes(result.stack, result.result)
    return attributes


def result_attributes(heads, result):
    """Return the fitted attributes that say which of several heads is the result.

    Parameters
    ----------
    heads : sequence of Head
        Of a method.
    result : Fitted
        Of it.

    Returns
    -------
    dict
        Empty where it is the one without a name.
    """
    chosen = heads[result.result]
    if not chosen.name:
        return {}
    attributes = {
        "chosen_head_": chosen.name,
        "head_names_": [head.name for head in heads],
    }
    if "validation_score" in result.history:
        # That of the epoch that was kept.
        scores = result.history["validation_score"][result.best_epoch[0] - 1]
        attributes["head_scores_"] = scores.astype(np.float64)
    return attributes


def training_attributes(prepared, result):
    """Return the fitted attributes that say how training went.

    Parameters
    ----------
    prepared : Prepared
    result : Fitted
        Of one method.

    Returns
    -------
    dict
    """
    method = prepared.method
    course = {
        "n_iter_": int(result.n_iter[-1]),
        "best_epoch_": int(result.best_epoch[-1]),
        "history_": fitted_history(result, prepared.validation),
        "loss_curve_": [float(loss[result.result]) for loss in result.history["loss"]],
        **result_attributes(method.heads, result),
    }
    names = (*HEAD_ATTRIBUTES, "network_")
    prefixes = ["", *(head.prefix for head in method.heads)]
    heads = [f"{prefix}{name}" for prefix in prefixes for name in names]
    taken = [*prepared.learned, *course, *heads, *VALIDATED]
    learned = method.learned(prepared.groups, result)
    return {**check_learned(method, learned, taken), **course}


def head_attributes(stack, head=-1, prefix=""):
    """Return the fitted attributes of one head of a stack.

    Parameters
    ----------
    stack : HeadStack
    head : int, default=-1
        The last head is a method's result.
    prefix : str, default=""
        What precedes the names of the attributes.

    Returns
    -------
    dict
        `coef_` (n_logits, n_features) and `intercept_` of a linear head, `coefs_` and
        `intercepts_` (as in scikit-learn's MLPClassifier) otherwise.
    """
    coefs, intercepts = stack.numpy(head)
    if len(coefs) == 1:
        return {f"{prefix}coef_": coefs[0], f"{prefix}intercept_": intercepts[0]}
    return {
        f"{prefix}coefs_": [np.ascontiguousarray(c.T) for c in coefs],
        f"{prefix}intercepts_": intercepts,
    }


def _optimizer_config(estimators, methods):
    first, n_heads = estimators[0], methods[0].n_heads
    heads = [head for method in methods for head in method.heads]

    def per_head(name):
        return np.repeat(
            np.array([getattr(e, name) for e in estimators], dtype=float), n_heads
        )

    own = np.repeat([default_decay(estimator) for estimator in estimators], n_heads)
    decays = [
        default if head.weight_decay is None else head.weight_decay
        for default, head in zip(own, heads)
    ]
    epochs = None
    if any(head.epochs is not None for head in heads):
        epochs = np.array([np.inf if h.epochs is None else h.epochs for h in heads])
    return OptimizerConfig(
        first.solver,
        per_head("learning_rate"),
        np.array(decays, dtype=float),
        per_head("momentum"),
        first.batch_size,
        first.max_iter,
        hidden_layer_sizes(first),
        epochs,
    )


def _features(X, X_student, device):
    features = Features(X, device)
    if X_student is None:
        return features
    return JoinedFeatures([Features(X_student, device), features])


def _validation_scorer(encoded, device, X_student=None):
    if encoded is None:
        return None
    features = Features(encoded["X"], device)
    if X_student is not None:
        # Only the last head is scored; the student sees nothing.
        features = JoinedFeatures([X_student.shape[1], features])
    return HeadValidationScorer(
        encoded["y"], encoded["groups"], encoded["selection"], features
    )


def fitted_history(result, validation):
    """Return a fit's history as `history_` has it: of the result alone.

    Parameters
    ----------
    result : Fitted
        Of one method.
    validation : dict or None
        What `encode_validation_set` returned.

    Returns
    -------
    dict
    """
    history, head = result.history, result.result
    out = {"loss": [float(v[head]) for v in history["loss"]]}
    if validation is not None:
        out["validation_score"] = [float(v[head]) for v in history["validation_score"]]
        accuracy = [v[:, head] for v in history["validation_group_accuracy"]]
        out["validation_group_accuracy"] = np.stack(accuracy)
        out["validation_groups"] = validation["labels"]
        if validation["groups"].weights is not None:
            out["validation_group_weights"] = validation["groups"].counts
        _warn_of_a_constant_score(out, validation)
    return out


def _plain(value):
    """Return a scalar of numpy as Python's own, which prints as the user wrote it."""
    return value.item() if isinstance(value, np.generic) else value


def _warn_of_a_constant_score(history, validation):
    """Say which groups keep the score from choosing an epoch, if it is always equal."""
    scores, selection = history["validation_score"], validation["selection"]
    never = history["validation_group_accuracy"].max(0) == 0.0
    if selection == "last" or len(scores) < 2 or np.ptp(scores) or not never.any():
        return
    unseen = np.zeros(len(validation["labels"]), dtype=bool)
    unseen[validation["groups"].ids[validation["y"] < 0]] = True
    named = [
        f"(label {_plain(label)!r}, attribute {_plain(value)!r})"
        + (", whose label is not in y" if is_unseen else "")
        for (label, value), is_never, is_unseen in zip(
            validation["labels"], never, unseen
        )
        if is_never
    ]
    warn_caller(
        f"selection={selection!r} has the same score, {scores[0]:g}, in each of "
        f"{len(scores)} epochs, so it chooses none of them: no epoch is ever right in "
        f"{'; '.join(named)}. The mean of the group accuracies and the validation loss "
        "chose instead. Look at these rows of X_val, or select by 'group_balanced'."
    )


class _Observer:
    """Reports epochs to scikit-learn's callbacks, if any, and to a progress bar."""

    def __init__(self, estimator, prepared, task, epoch):
        self._prepared = prepared
        self._task = task
        self._bar = tqdm(
            total=estimator.max_iter,
            initial=epoch,
            desc=type(estimator).__name__,
            unit="epoch",
            disable=not estimator.verbose,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def begin(self, stack):
        if self._task is None:
            return
        self._epoch = self._task.begin_epoch(lambda: self._attributes(stack, -1))

    def end(self, tracker):
        head = tracker.results[0]
        shown = {"loss": tracker.history["loss"][-1][head]}
        if tracker.validation is not None:
            score = tracker.history["validation_score"][-1][head]
            shown[tracker.validation.selection] = score
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        if self._task is None:
            return False
        return self._epoch.end(lambda: self._attributes(tracker.stack, head))

    def _attributes(self, stack, head):
        """Return the fitted attributes, as they are now."""
        return self._prepared.learned | head_attributes(stack, head)
