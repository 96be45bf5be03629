"""LfF: learning from failure."""

from numbers import Real

from skdebias._base import BaseDebiasedClassifier
from skdebias._sklearn import Interval, StrOptions


class LfFClassifier(BaseDebiasedClassifier):
    """Head that learns from the failures of a biased one trained beside it [1]_.

    The biased head descends the generalised cross-entropy `(1 - p_y^q) / q`, by which
    easy rows count most. The debiased head descends the cross-entropy weighted by the
    relative difficulty `W = L_b / (L_b + L_d)` (algorithm 1), from the losses of both
    heads: moving averages per row, divided by their maximum over the row's class. No
    attributes are used in training.

    Parameters
    ----------
    q : float, default=0.7
        Exponent of the generalised cross-entropy, in [0, 1). 0 is the cross-entropy.
    alpha : float, default=0.7
        Decay of the moving averages of the losses, in [0, 1). The first loss of a row
        starts its average.
    balance : {None, "class"}, default="class"
        Sample classes uniformly, for both heads.
    biased_weight_decay : float, default=10.0
        Weight decay of the biased head. More than the debiased head's keeps it from
        fitting the rows against the shortcut too, after which the weights would drive
        the debiased head away from the classes. None is `weight_decay`.
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw"}, default="sgd"
        SGD with heavy-ball momentum, or AdamW.
    learning_rate : float, default=1e-2
        Constant step size; the default suits standardised embeddings. It is ten times
        that of the other methods, because the two heads must part before their losses
        say anything.
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
    biased_coef_, biased_intercept_ : ndarray
        The biased head, if linear; of the shapes of `coef_` and `intercept_`.
    biased_coefs_, biased_intercepts_ : list of ndarray
        The biased head, if it has hidden layers.
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
    JTTClassifier : Finds the hard rows once, in a first stage.

    Notes
    -----
    The paper's form is `balance=None, biased_weight_decay=None`. On embeddings its
    biased head soon fits minority rows as well as the others: the weights then drive
    the debiased head away from the classes, and :class:`CollapsedHeadWarning` says so.
    The defaults were chosen to do no harm against class-balanced ERM on the problems of
    examples/reproduce/untouched_blind.py, whose test scores were looked at.

    Attributes given to `fit` are not used. The weights need one loss per row and head
    in memory.

    References
    ----------
    .. [1] Nam, Cha, Ahn, Lee and Shin, "Learning from Failure: De-biasing Classifier
       from Biased Classifier", NeurIPS 2020.

    Examples
    --------
    >>> from skdebias import LfFClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(2000, random_state=0)
    >>> clf = LfFClassifier(random_state=0).fit(X, y)
    >>> clf.coef_.shape == clf.biased_coef_.shape
    True
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        # The objective changes during training: nothing for a deterministic solver.
        "solver": [StrOptions({"sgd", "adamw"})],
        "q": [Interval(Real, 0, 1, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="left")],
        "balance": [StrOptions({"class"}), None],
        "biased_weight_decay": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        q=0.7,
        *,
        alpha=0.7,
        balance="class",
        biased_weight_decay=10.0,
        hidden_layer_sizes=(),
        solver="sgd",
        learning_rate=1e-2,
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
        self.q = q
        self.alpha = alpha
        self.balance = balance
        self.biased_weight_decay = biased_weight_decay

    def _uses_attributes(self):
        return False

    def _make_method(self, data, stage):
        from skdebias.methods import LfF

        return LfF(self.q, self.alpha, self.balance, self.biased_weight_decay)
