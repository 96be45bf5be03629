"""From an estimator's parameters to the engine and back."""

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._lbfgs import solve
from skdebias._engine._loss import n_logits
from skdebias._engine._selection import Stopping, Validation
from skdebias._engine._sgd import Problem, Settings, Training
from skdebias._warnings import warn_caller


def resolve_device(device):
    """Return the torch device of a `device` parameter.

    Parameters
    ----------
    device : str
        "auto" is CUDA where there is one, else the CPU; "cuda" is the current CUDA
        device.

    Returns
    -------
    torch.device
        As its tensors say it, with its number.

    Raises
    ------
    ValueError
        If the device is unknown to torch, absent from this machine, or cannot do
        what the fits need.
    """
    wanted = device
    if device == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Sums are float64, which not every device has.
        resolved = torch.ones(1, dtype=torch.float64, device=wanted)
        resolved.sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({reason}): choose "
            "'auto' or 'cpu'."
        ) from error
    return resolved.device


class StackFit:
    """Estimators whose heads are trained as one stack.

    Parameters
    ----------
    estimators : list of BaseDebiasedClassifier
        Alike but for what a stack can hold side by side: the optimiser's rates and
        their `_stackable` parameters. What else is read of them is read of the first.
    methods : list of Method
        One per estimator, of one class.
    data : TrainingData
        Of the local rows; `X` is not read where `features` are given.
    y_codes : ndarray of shape (n_rows,)
        One per row of X, or of `features`.
    groups : Groups
        Of the local rows.
    validation : dict, default=None
        What `encode_validation_set` returned.
    task : FitTask, default=None
        Told of every epoch of the first estimator.
    X_student : ndarray or Tensor of shape (n_samples, n_student_features), default=None
        What the first head of a method of two reads instead of X.
    features : Features or JoinedFeatures, default=None
        Rows to train on, if they are already at hand.
    rows : ndarray, default=None
        Which of the `features` the local rows are; None for all of them.
    tolerate : bool, default=False
        Let single heads diverge.
    """

    def __init__(
        self,
        estimators,
        methods,
        data,
        y_codes,
        groups,
        *,
        validation=None,
        task=None,
        X_student=None,
        features=None,
        rows=None,
        tolerate=False,
    ):
        self._estimators = estimators
        self._first = first = estimators[0]
        self._n_heads = methods[0].n_heads
        self._encoded = validation
        self._task = task
        device = resolve_device(first.device)
        anchors = [_anchor(estimator) for estimator in estimators]
        starts = [
            _warm_start(estimator, X_student) or anchor
            for estimator, anchor in zip(estimators, anchors)
        ]
        problem = Problem(
            methods,
            groups,
            data.seed,
            rows,
            initial=_side_by_side(starts),
            anchor=_side_by_side(anchors),
        )
        if features is None:
            features = _features(data.X, X_student, device)
        settings = _settings(estimators, self._n_heads)
        judge = _validation(validation, device, X_student)
        codes, n_classes = y_codes.astype(np.int64), len(first.classes_)
        what = features, codes, n_classes
        self._training = None
        if first.solver == "lbfgs":
            self._solve = partial(
                solve, *what, problem, settings, tol=first.tol, validation=judge
            )
            return
        self._training = Training(
            *what,
            [problem],
            settings,
            validation=judge,
            stopping=Stopping(first.early_stopping, first.tol, first.n_iter_no_change),
            tolerate=tolerate,
        )

    def run(self, until=None):
        """Train, and set the fitted attributes of the estimators.

        Parameters
        ----------
        until : int, default=None
            Stop after so many epochs in all, to go on in the next call. None is
            `max_iter`, and the only choice of a solver that has no epochs.

        Returns
        -------
        Fitted
        """
        if self._training is None:
            fitted = self._solve()
            _warn_if_unsolved(fitted, self._first)
        else:
            with _Observer(self._first, self._task, self._training.epoch) as observer:
                self._training.run(
                    until, on_epoch_begin=observer.begin, on_epoch_end=observer.end
                )
            fitted = self._training.result()
        for position, estimator in enumerate(self._estimators):
            part = fitted.part(position, self._n_heads)
            estimator._set_fitted(_state(estimator, part, self._encoded))
        return fitted

    def keep(self, positions):
        """Go on with some of the estimators; the heads of the others are dropped.

        Parameters
        ----------
        positions : list of int
            Among the estimators that are left. Their solver has epochs.
        """
        self._estimators = [self._estimators[position] for position in positions]
        self._training.keep(positions)


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


def _side_by_side(parameters):
    """Chain the heads of all estimators; None if there are none."""
    if parameters[0] is None:
        return None
    return [head for own in parameters for head in own]


def _state(estimator, fitted, validation):
    """Fitted attributes of one estimator."""
    heads = {}
    for position, prefix in enumerate(estimator._head_prefixes):
        heads |= head_attributes(fitted.stack, position, prefix)
    return {
        **heads,
        **estimator._further_attributes(fitted),
        "n_iter_": int(fitted.n_iter[-1]),
        "best_epoch_": int(fitted.best_epoch[-1]),
        "history_": fitted_history(fitted.history, validation),
        "loss_curve_": [float(loss[-1]) for loss in fitted.history["loss"]],
    }


def head_attributes(stack, head=-1, prefix=""):
    """Fitted attributes of one head of a stack.

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


def _hidden_layer_sizes(estimator):
    return tuple(int(size) for size in estimator.hidden_layer_sizes)


def _settings(estimators, n_heads):
    first = estimators[0]

    def per_head(values):
        stacked = [np.broadcast_to(np.asarray(v, dtype=float), n_heads) for v in values]
        return np.concatenate(stacked)

    epochs = [estimator._epochs() for estimator in estimators]
    return Settings(
        first.solver,
        per_head([estimator.learning_rate for estimator in estimators]),
        per_head([estimator._weight_decays() for estimator in estimators]),
        per_head([estimator.momentum for estimator in estimators]),
        first.batch_size,
        first.max_iter,
        _hidden_layer_sizes(first),
        None if epochs[0] is None else per_head(epochs),
    )


def _features(X, X_student, device):
    own = Features(X, device)
    if X_student is None:
        return own
    return JoinedFeatures([Features(X_student, device), own])


def _validation(encoded, device, X_student=None):
    if encoded is None:
        return None
    features = Features(encoded["X"], device)
    if X_student is not None:
        # Only the last head is judged; the student sees nothing.
        features = JoinedFeatures([X_student.shape[1], features])
    return Validation(encoded["y"], encoded["groups"], encoded["selection"], features)


def _anchor(estimator):
    """Parameters that weight decay pulls to, if not zero."""
    layers = estimator._anchor()
    return None if layers is None else [_parameters(layers)]


def _warm_start(estimator, X_student=None):
    """Weights of the previous fit, if asked for and still of the right shape."""
    if not (estimator.warm_start and hasattr(estimator, "n_iter_")):
        return None
    heads = [estimator._layers(prefix) for prefix in estimator._head_prefixes]
    hidden = _hidden_layer_sizes(estimator)
    n_outputs = n_logits(len(estimator.classes_))
    widths = [estimator.n_features_in_] * len(heads)
    if X_student is not None:
        widths[0] = X_student.shape[1]
    for layers, width in zip(heads, widths):
        sizes = (width, *hidden, n_outputs)
        shapes = [coef.shape for coef, _ in layers]
        if tuple(shapes) != tuple(pairwise(sizes)):
            raise ValueError(
                f"warm_start=True, but a fitted head has layers of shape {shapes} and "
                f"the data and hidden_layer_sizes ask for sizes {sizes}: fit a clone "
                "instead."
            )
    if not all(np.isfinite(w).all() for own in heads for pair in own for w in pair):
        raise ValueError(
            "warm_start=True, but weights of the fitted head are not finite: fit a "
            "clone instead."
        )
    return [_parameters(layers) for layers in heads]


def _parameters(layers):
    """Layers of an estimator as the engine keeps them."""
    return [np.ascontiguousarray(coef.T) for coef, _ in layers], [b for _, b in layers]


def fitted_history(history, validation):
    """Return a fit's history as `history_` has it: of the last head alone.

    Parameters
    ----------
    history : dict of list of ndarray
        Per epoch, as the tracker has it.
    validation : dict or None
        What `encode_validation_set` returned.

    Returns
    -------
    dict
    """
    out = {"loss": [float(v[-1]) for v in history["loss"]]}
    if validation is not None:
        out["validation_score"] = [float(v[-1]) for v in history["validation_score"]]
        accuracy = [v[:, -1] for v in history["validation_group_accuracy"]]
        out["validation_group_accuracy"] = np.stack(accuracy)
        out["validation_groups"] = validation["labels"]
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

    def __init__(self, estimator, task, epoch):
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
        self._epoch = self._task.begin_epoch(lambda: head_attributes(stack))

    def end(self, tracker):
        shown = {"loss": tracker.history["loss"][-1][-1]}
        if tracker.validation is not None:
            score = tracker.history["validation_score"][-1][-1]
            shown[tracker.validation.selection] = score
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        if self._task is None:
            return False
        return self._epoch.end(lambda: head_attributes(tracker.stack))
