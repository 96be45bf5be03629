"""Empirical risk minimisation, plain or balanced."""

from numbers import Real

import numpy as np
from sklearn.utils import compute_class_weight

from skdebias._auto import with_numbers
from skdebias._base import BaseDebiasedClassifier, shared_parameters
from skdebias._sklearn import HasMethods, Interval, StrOptions

# Parameters that are fields of the method.
_OF_THE_METHOD = (
    "balance",
    "reweight",
    "loss",
    "loss_exponent",
    "logit_adjustment",
    "margin",
    "balance_power",
    "effective_beta",
)


class ERMClassifier(BaseDebiasedClassifier):
    """Head trained by empirical risk minimisation, plain or balanced.

    The baseline of every debiasing method, and, balanced over groups, a strong one
    [1]_. Balanced softmax, logit adjustment, LDAM, the class-balanced loss, cRT, square
    roots of weights, the generalised cross-entropy and the focal loss are settings of
    it: see :doc:`/user_guide/losses`, which says when each is of use.

    Parameters
    ----------
    balance : {None, "class", "group"}, default=None
        Sample classes, or (label, attribute) groups, uniformly.
    reweight : {None, "class", "group"}, default=None
        Weight the loss so that classes, or groups, count alike. The mean weight of the
        rows is 1.
    loss : {"cross_entropy", "gce", "focal"}, default="cross_entropy"
        With `p` the probability of a row's class, `-log p`; the generalised
        cross-entropy `(1 - p^q) / q`, for which easy rows count more [2]_; or the focal
        loss `-(1 - p)^q log p`, for which they count less [3]_. The last two are not
        convex, and `solver="lbfgs"` refuses them.
    loss_exponent : float, default=None
        `q` of the loss: in [0, 1] for "gce", at least 0 for "focal"; 0 is the
        cross-entropy. None is 0.7 for "gce", and 2 for "focal".
    logit_adjustment : float, default=0.0
        By how many times the log frequency of its class every logit is raised in
        training, and not when predicting [4]_. 1 is balanced softmax [5]_.
    margin : float, default=0.0
        By how much the logit of a row's class is lowered in training if that class is
        the rarest; that of another class by `(n_rarest / n)^(1/4)` of it, as in LDAM
        [6]_. LDAM's margin of 0.5 with a scale of 30 is a margin of 15.
    balance_power : float, default=1.0
        In [0, 10]. How far `balance` and `reweight` go: they divide by numbers of rows
        to this power. 1 makes classes or groups count alike, 0.5 is the square root,
        0 is not to balance.
    effective_beta : float, default=1.0
        In [0, 1]. Where `balance` and `reweight` divide by `n` rows, they divide by the
        effective number of rows `(1 - b^n) / (1 - b)` instead [7]_, 0.9999 being the
        common value of `b`. 1 is `n` itself, and 0 is not to balance.
    class_weight : dict, "balanced" or None, default=None
        By what the weights of rows are multiplied, class by class, as in scikit-learn.
        "balanced" makes classes count alike, as `reweight="class"` does by the loss.
        Not beside `balance` or `reweight`, which settle how much classes count, nor
        beside `logit_adjustment` or `margin`, which are made of the weighted counts.
    pseudo_attributes : estimator of `skdebias.attributes`, default=None
        Infers the attributes, in the fit, if it is given none; one that learns from
        annotated rows, such as :class:`~skdebias.attributes.SSAPseudoAttributes`, also
        those of single rows.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        Attribute values (crossed, for several columns) seen in `fit`.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    pseudo_attributes_ : ndarray of shape (n_samples,) or (n_samples, n_attributes)
        Inferred attributes, where some were missing.
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
    GERNEClassifier : Extrapolates beyond group balance.

    References
    ----------
    .. [1] Idrissi et al., "Simple data balancing achieves competitive
       worst-group-accuracy", CLeaR 2022.
    .. [2] Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
       Networks with Noisy Labels", NeurIPS 2018, equation 6.
    .. [3] Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    .. [4] Menon et al., "Long-tail learning via logit adjustment", ICLR 2021,
       equation 10.
    .. [5] Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
       NeurIPS 2020, equation 4.
    .. [6] Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware
       Margin Loss", NeurIPS 2019, equations 12 and 13.
    .. [7] Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR
       2019, equation 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import ERMClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> place = np.where(rng.random(400) < 0.95, y, 1 - y)
    >>> X = rng.normal(size=(400, 8)) + np.outer(y, np.ones(8)) + 2 * place[:, None]
    >>> clf = ERMClassifier(balance="group", random_state=0)
    >>> clf.fit(X, y, attributes=place).predict(X[:3]).shape
    (3,)
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "balance": [StrOptions({"class", "group"}), None],
        "reweight": [StrOptions({"class", "group"}), None],
        "loss": [StrOptions({"cross_entropy", "gce", "focal"})],
        "loss_exponent": [Interval(Real, 0, None, closed="left"), None],
        "logit_adjustment": [Interval(Real, 0, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "balance_power": [Interval(Real, 0, 10, closed="both")],
        "effective_beta": [Interval(Real, 0, 1, closed="both")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "pseudo_attributes": [HasMethods(["fit_predict"]), None],
    }

    def __init__(
        self,
        balance=None,
        *,
        reweight=None,
        loss="cross_entropy",
        loss_exponent=None,
        logit_adjustment=0.0,
        margin=0.0,
        balance_power=1.0,
        effective_beta=1.0,
        class_weight=None,
        pseudo_attributes=None,
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
        self.balance = balance
        self.reweight = reweight
        self.loss = loss
        self.loss_exponent = loss_exponent
        self.logit_adjustment = logit_adjustment
        self.margin = margin
        self.balance_power = balance_power
        self.effective_beta = effective_beta
        self.class_weight = class_weight
        self.pseudo_attributes = pseudo_attributes

    def _validate_params(self):
        super()._validate_params()
        for name in ("balance", "reweight"):
            value = getattr(self, name)
            if self.class_weight is not None and value is not None:
                raise ValueError(
                    f"class_weight={self.class_weight!r} with {name}={value!r}: "
                    f"{name} settles how much each class counts, whatever its weight. "
                    "Leave one of the two at None."
                )
        for name in ("logit_adjustment", "margin"):
            value = getattr(self, name)
            if self.class_weight is not None and value != 0:
                raise ValueError(
                    f"class_weight={self.class_weight!r} with {name}={value!r}: "
                    f"{name} is made of the weighted counts of the classes. "
                    "Choose reweight='class', which leaves the counts alone, or leave "
                    f"class_weight at None or {name} at 0."
                )

    def _class_weights(self, y, sample_weight):
        if self.class_weight is None:
            return None
        counted = np.ones(len(y)) if sample_weight is None else sample_weight
        present = np.unique(y[counted > 0])
        of_class = compute_class_weight(
            self.class_weight,
            classes=present,
            y=y[counted > 0],
            sample_weight=counted[counted > 0],
        )
        # Rows of weight 0 are left out, and need none.
        place = np.searchsorted(present, y).clip(max=len(present) - 1)
        return of_class[place]

    def _make_method(self, data, stage):
        from skdebias.methods import ERM  # brings torch, which predicting does not need

        return ERM(**{name: getattr(self, name) for name in _OF_THE_METHOD})

    def _uses_attributes(self):
        return "group" in (self.balance, self.reweight)


def make_erm(estimator, **changes):
    """Return an unfitted ERM head with the shared parameters of another estimator.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        The first stage of its fit is wanted.
    **changes : dict
        Parameters to set instead. Of themselves nothing is balanced, nothing warm.

    Returns
    -------
    ERMClassifier
    """
    params = with_numbers(estimator, groups_known=False).get_params(deep=False)
    shared = {name: params[name] for name in shared_parameters()}
    return ERMClassifier(**(shared | {"warm_start": False} | changes))


class HeadFactory:
    """Where the first stage of a head gets its models: heads of the same kind.

    A whole network has networks instead; see `skdebias.finetune`.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        Whose first stage it is.
    """

    def __init__(self, estimator):
        self._estimator = estimator

    def erm(self, **changes):
        """Return an unfitted ERM model of the same architecture and settings.

        Parameters
        ----------
        **changes : dict
            Parameters to set instead.

        Returns
        -------
        classifier
        """
        return make_erm(self._estimator, **changes)

    def last_layer(self, X, y, reference, sample_weight=None):
        """Return features and the model whose last layers read them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        reference : dict or None
            Changes to the ERM model, which is wanted in training; None if it is not.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        features : array-like of shape (n_samples, n_features)
        model : classifier or None
            A head on these features, perhaps not fitted yet.
        """
        return X, None if reference is None else self.erm(**reference)


def model_factory(estimator, data):
    """Return where an estimator's first stage gets its models.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
    data : TrainingData

    Returns
    -------
    HeadFactory or alike
    """
    return data.models or HeadFactory(estimator)
