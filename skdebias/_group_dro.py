"""GroupDRO: distributionally robust optimisation over groups."""

from numbers import Real

from skdebias._base import BaseDebiasedClassifier
from skdebias._sklearn import HasMethods, Interval


class GroupDROClassifier(BaseDebiasedClassifier):
    """Head trained for its worst group by online GroupDRO [1]_.

    Batches hold all groups equally often. Every step multiplies the group weights by
    `exp(step_size (L_g + adjustment / sqrt(n_g)))`, where `L_g` is the mean loss of
    group g in the batch, normalises them, and descends `sum_g q_g L_g` (algorithm 1
    and equation 5).

    With `solver="lbfgs"` there are no steps: the head minimises the smooth maximum
    `T log mean_g exp((L_g + adjustment / sqrt(n_g)) / T)` of the mean losses of all
    groups, T being the `temperature`.

    Parameters
    ----------
    step_size : float, default=0.01
        Step size of the group weights. 0 is group resampling, that is
        `ERMClassifier(balance="group")`; the larger, the more the worst group counts.
    adjustment : float, default=0.0
        Generalisation adjustment C: small groups, whose training loss says less about
        their test loss, get a higher weight.
    temperature : float, default=0.1
        Only for `solver="lbfgs"`, which has no use for `step_size`: how far the
        objective is from the loss of the worst group, by at most `temperature
        log(n_groups)`. Large values give every group the same weight.
    pseudo_attributes : estimator of `skdebias.attributes`, default=None
        Infers the attributes, in the fit, if it is given none; one that learns from
        annotated rows, such as :class:`~skdebias.attributes.SSAPseudoAttributes`, also
        those of single rows.
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw", "lbfgs"}, default="sgd"
        SGD with heavy-ball momentum, AdamW, or for a linear head batched L-BFGS on the
        objective above: deterministic, to a gradient of at most `tol` in at most
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
    group_weights_ : ndarray of shape (n_groups,)
        Weights `q` of the groups at the end of training; they sum to one.
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
    ERMClassifier : With `balance="group"`, the limit of a zero `step_size`.
    GERNEClassifier : Chooses the weight of minority groups by an extrapolation factor.

    Notes
    -----
    Without regularisation a head that fits every training row has no worst group left:
    `weight_decay` or few epochs are part of the method.

    References
    ----------
    .. [1] Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks
       for Group Shifts", ICLR 2020.

    Examples
    --------
    >>> from skdebias import GroupDROClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(2000, random_state=0)
    >>> clf = GroupDROClassifier(step_size=0.1, adjustment=5.0, random_state=0)
    >>> weights = clf.fit(X, y, attributes=attributes).group_weights_
    >>> bool(weights[clf.group_counts_ < 100].sum() > 0.5)
    True
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "step_size": [Interval(Real, 0, None, closed="left")],
        "adjustment": [Interval(Real, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "pseudo_attributes": [HasMethods(["fit_predict"]), None],
    }

    def __init__(
        self,
        step_size=0.01,
        *,
        adjustment=0.0,
        temperature=0.1,
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
        self.step_size = step_size
        self.adjustment = adjustment
        self.temperature = temperature
        self.pseudo_attributes = pseudo_attributes

    def _make_method(self, data, stage):
        from skdebias.methods import GroupDRO

        return GroupDRO(self.step_size, self.adjustment, self.temperature)
