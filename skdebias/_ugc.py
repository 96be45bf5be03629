"""UGC: unsupervised gradient clustering."""

from numbers import Integral, Real

from skdebias._base import BaseDebiasedClassifier, shared_parameters
from skdebias._erm import model_factory
from skdebias._first_stage import FirstStage
from skdebias._sklearn import Interval, StrOptions

# Parameters that GradientClusterPseudoAttributes shares.
_CLUSTERING = (
    "n_clusters",
    "warmup",
    "warmup_epochs",
    "per_class",
    "pool",
    "signature",
    "n_components",
    "weight_decay",
    "device",
)


class UGCClassifier(BaseDebiasedClassifier):
    """Head trained robustly over clusters of gradients (UGC) [1]_.

    Needs no attributes. A barely trained classifier gives every row the gradient of its
    loss in the last layer, `g_i = (softmax(z_i) - onehot(y_i)) x_i^T`. The gradients
    are clustered, and the head is trained anew so that every cluster counts. By default
    classes are clustered one by one, into more clusters than are needed, and all but
    the largest are pooled: a majority and a minority per class.

    Parameters
    ----------
    n_clusters : int, default=4
        Clusters of k-means, per class or in all. With 1, groups are the classes.
    warmup : {"auto", "mean_difference", "epochs", "logistic"}, default="auto"
        The classifier whose gradients are clustered. "mean_difference" is the linear
        head along the differences of the class means, with the scale of least log loss:
        no hyper-parameter, no seed; also with hidden layers it works on X itself.
        "epochs" trains this estimator's head by ERM for `warmup_epochs`, as in the
        paper, and "logistic" fits a logistic regression with this estimator's
        `weight_decay` to convergence; with hidden layers, on the activations of the
        head trained for `warmup_epochs`. "auto" is "mean_difference", unless its
        clusters are weak, X has at most 100 features, and "logistic" on X has clusters
        that are not.
    warmup_epochs : int, default=1
        Epochs of the warm-up.
    per_class : bool, default=True
        Cluster every class by itself, so that groups are (class, cluster) cells. The
        paper clusters all rows at once, and its groups are the clusters.
    pool : bool, default=True
        The largest cluster against all others together.
    signature : {"gradient", "gradient_norm"}, default="gradient"
        Cluster the gradients, or only their norms, which was better with many classes.
    n_components : int, default=10
        Principal components of the gradients.
    robust : {"group_dro", "inverse_frequency", "feature_magnitude"}, \
default="feature_magnitude"
        How groups count. "group_dro" raises the weight of the groups with the largest
        loss online, and needs attributes in the validation set to select the epoch.
        "inverse_frequency" samples all groups alike.
        "feature_magnitude" samples them in proportion to the mean norm of their centred
        features.
    step_size : float, default=0.01
        Step size of the group weights of "group_dro".
    hidden_layer_sizes : array-like of int, default=()
        Sizes of hidden ReLU layers. Empty is a linear head.
    solver : {"sgd", "adamw", "lbfgs"}, default="sgd"
        SGD with heavy-ball momentum, AdamW, or for a linear head batched L-BFGS on the
        expected objective: deterministic, to a gradient of at most `tol` in at most
        `max_iter` iterations, the validation set selecting nothing. "group_dro" is then
        the smooth maximum of :class:`GroupDROClassifier` at its default temperature.
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
        Cluster of every row; with `pool`, 0 for the majority and 1 for the rest.
    warmup_ : str
        The warm-up that was taken.
    cluster_sizes_ : ndarray of shape (n_classes, n_clusters)
        Rows of every class in every cluster, before pooling, clusters sorted by size.
    silhouette_ : float
        Mean silhouette of the margins, within the classes, split by pseudo-attribute.
        Up to about 0.56 a single cloud reaches, and
        :class:`~skdebias.attributes.WeakClustersWarning` is raised.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,)
        Values of the pseudo-attributes.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    group_weights_ : ndarray of shape (n_groups,)
        Weights of the groups at the end, with `robust="group_dro"` and `per_class`.
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
    skdebias.attributes.GradientClusterPseudoAttributes : The first stage, for any
        method that takes attributes.

    Notes
    -----
    The paper's form is `warmup="epochs", per_class=False, pool=False, n_clusters=2,
    robust="group_dro"`. It calls inverse frequency weights equivalent to GroupDRO; they
    are not: the former minimise the mean of the group risks, the latter their maximum.
    What "feature magnitude" means is left open there; the definition is ours.

    Features are centred in the first stage, never scaled: standardise X. With few
    features the mean-difference warm-up can mistake the hard rows of a class for those
    that conflict with the spurious attribute, and do harm. There "auto" takes the
    logistic warm-up where that finds clear clusters. Where neither does, the clusters
    of the mean difference are used all the same: on embeddings of faces and texts, weak
    as they are, they gain over class-balanced ERM.
    :class:`~skdebias.attributes.WeakClustersWarning` says so.

    References
    ----------
    .. [1] "Unsupervised Gradient Clustering for robustness to spurious correlations",
       2025. Per-class clustering, pooling and the mean-difference warm-up are ours.

    Examples
    --------
    >>> from skdebias import ERMClassifier, UGCClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.metrics import worst_group_accuracy_score
    >>> X, y, attributes = make_spurious_classification(1000, random_state=0)
    >>> clf = UGCClassifier(random_state=0).fit(X, y)
    >>> erm = ERMClassifier(random_state=0).fit(X, y)
    >>> worst = [
    ...     worst_group_accuracy_score(y, model.predict(X), attributes=attributes)
    ...     for model in (clf, erm)
    ... ]
    >>> bool(worst[0] > worst[1] + 0.1)
    True
    """

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "warmup": [StrOptions({"auto", "mean_difference", "epochs", "logistic"})],
        "warmup_epochs": [Interval(Integral, 1, None, closed="left")],
        "per_class": ["boolean"],
        "pool": ["boolean"],
        "signature": [StrOptions({"gradient", "gradient_norm"})],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "robust": [StrOptions({"group_dro", "inverse_frequency", "feature_magnitude"})],
        "step_size": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters=4,
        warmup="auto",
        *,
        warmup_epochs=1,
        per_class=True,
        pool=True,
        signature="gradient",
        n_components=10,
        robust="feature_magnitude",
        step_size=0.01,
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
        self.n_clusters = n_clusters
        self.warmup = warmup
        self.warmup_epochs = warmup_epochs
        self.per_class = per_class
        self.pool = pool
        self.signature = signature
        self.n_components = n_components
        self.robust = robust
        self.step_size = step_size

    def _uses_attributes(self):
        return False

    def _first_stage(self, data):
        reference = self._reference(data.seed)
        weights = data.sample_weight
        X, model = model_factory(self, data).last_layer(
            data.X, data.y, reference, weights
        )
        inferrer = self._inferrer(data.seed, model)
        inferrer.fit(X, data.y, sample_weight=weights)
        norms = None
        if self.robust == "feature_magnitude":
            norms = self._feature_norms(X, weights)
        names = ("pseudo_attributes_", "warmup_", "cluster_sizes_", "silhouette_")
        return FirstStage(
            inferrer.pseudo_attributes_,
            True,
            {name: getattr(inferrer, name) for name in names},
            {"norms": norms},
            inferrer if data.models is None else None,  # it knows embeddings, not items
        )

    def _first_stage_parameters(self, infers):
        return {*_CLUSTERING, "robust", *shared_parameters()}

    def _reference(self, seed):
        """Return how the warm-up model differs from ERM; None if there is none."""
        hidden = self.warmup == "logistic" and len(self.hidden_layer_sizes)
        if self.warmup != "epochs" and not hidden:
            return None
        return {
            "max_iter": self.warmup_epochs,
            "selection": "last",
            "early_stopping": False,
            "random_state": seed,
            "verbose": 0,
        }

    def _inferrer(self, seed, reference):
        """Return the estimator of the first stage."""
        from skdebias.attributes import GradientClusterPseudoAttributes

        clustering = {name: getattr(self, name) for name in _CLUSTERING}
        return GradientClusterPseudoAttributes(
            **clustering, reference_estimator=reference, random_state=seed
        )

    def _feature_norms(self, X, sample_weight):
        from skdebias._device import resolve_device
        from skdebias._engine._features import Features
        from skdebias.attributes._rows import feature_norms

        features = Features(X, resolve_device(self.device))
        return feature_norms(features, sample_weight)

    def _make_method(self, data, stage):
        from skdebias.methods._ugc import robust_method

        return robust_method(
            self.robust,
            stage.groups,
            across_classes=not self.per_class,
            step_size=self.step_size,
            norms=stage.for_method["norms"],
        )
