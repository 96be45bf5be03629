"""DebiasedClassifier: a head trained by any method that is handed over."""

import dataclasses

from skdebias._base import BaseDebiasedClassifier
from skdebias._rows import refuse_beyond_float32
from skdebias._sklearn import HasMethods, _fit_context
from skdebias._validation import about, validate_features


class DebiasedClassifier(BaseDebiasedClassifier):
    """Head trained by a method of `skdebias.methods`, or by one of your own.

    The named estimators, such as :class:`GERNEClassifier`, are this one with the
    parameters of their method spelt out, and with what they learn before.

    Parameters
    ----------
    method : skdebias.methods.Method
        A dataclass, such as `GERNE(beta=0.5)`. Its fields are parameters of the
        classifier under the names `method__<field>`, in grids too.
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
    skdebias.methods : The methods.
    skdebias.finetune.FineTuneClassifier : The same for whole networks.

    Notes
    -----
    What a method says it learned (:meth:`skdebias.methods.Method.learned`) becomes
    fitted attributes, such as `beta_` of GERNE. So do the other heads of a method,
    whose names precede those of the attributes, as in `student_coef_` of ULE. Where
    the heads are alternatives, as those of DivDis are, rows of the validation set
    choose the result: the head of the best score (of `selection`; accuracy if that is
    the last epoch). `head_names_` and `chosen_head_` have its name and those of all,
    `head_scores_` the scores.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier, GERNEClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import GERNE
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(GERNE(beta=0.5), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).beta_
    0.5
    >>> named = GERNEClassifier(beta=0.5, random_state=0)
    >>> bool((clf.coef_ == named.fit(X, y, attributes=attributes).coef_).all())
    True
    >>> clf.set_params(method__beta=0.8).method
    GERNE(beta=0.8, c=0.5, shared=False, out_of_bounds='auto')
    """

    __metadata_request__fit = {"X_unlabeled": True}

    _parameter_constraints: dict = {
        **BaseDebiasedClassifier._parameter_constraints,
        "method": "no_validation",  # its class is checked, with a remedy
        "pseudo_attributes": [HasMethods(["fit_predict"]), None],
    }

    def __init__(
        self,
        method,
        *,
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
        self.method = method
        self.pseudo_attributes = pseudo_attributes

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        attributes=None,
        *,
        sample_weight=None,
        X_val=None,
        y_val=None,
        attributes_val=None,
        sample_weight_val=None,
        X_unlabeled=None,
    ):
        """Train the head.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings: float16, float32 or float64 array, memory map, torch tensor on
            any device, or data frame. Trained in float32, never copied as a whole.
        y : array-like of shape (n_samples,)
            Class labels, two or more classes.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Spurious attributes; several columns are crossed.
        sample_weight : array-like of shape (n_samples,) or float, default=None
            As how many rows each row counts, in the shares of classes and groups too;
            a row of weight 0 is left out. None is 1.
        X_val, y_val, attributes_val : array-like, default=None
            Validation set that selects the epoch, see `selection`, and the head where a
            method has alternatives; nothing else.
        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            As how many rows each validation row counts in the scores.
        X_unlabeled : array-like of shape (n_unlabeled, n_features), default=None
            Rows without labels, for a method that learns from them. A step sees a batch
            of them beside those of the method; they count neither in the length of an
            epoch nor in `groups_`. The steps of a Pipeline transform them as they do
            `X_val`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If the input is malformed: wrong lengths, NaN, a single class; or if
            `X_unlabeled` is given to a method that does not use it, or not given to
            one that does. What was fitted before is then left as it was.
        """
        more = {} if X_unlabeled is None else {"X_unlabeled": X_unlabeled}
        return self._fit_or_restore(
            X,
            y,
            attributes,
            sample_weight=sample_weight,
            X_val=X_val,
            y_val=y_val,
            attributes_val=attributes_val,
            sample_weight_val=sample_weight_val,
            **more,
        )

    def _training_data(self, X, y, *, X_unlabeled=None, **fit_params):
        from skdebias.methods._networks import refuse_without_network  # torch

        method = restored(self.method)
        if method.needs_network is not None:
            refuse_without_network(method)
        data = super()._training_data(X, y, **fit_params)
        check_unlabeled(self, X_unlabeled, type(self).__name__)
        if X_unlabeled is None:
            return data
        with about("X_unlabeled"):
            rows = validate_features(self, X_unlabeled, reset=False)
        refuse_beyond_float32(rows, "X_unlabeled")
        return dataclasses.replace(data, X_unlabeled=rows)

    def get_params(self, deep=True):
        """Get parameters for this estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether the fields of the method, and the parameters of estimators among the
            parameters, are returned too.

        Returns
        -------
        dict of str to object
        """
        params = super().get_params(deep=deep)
        if deep:
            params |= {f"method__{k}": v for k, v in _fields(self.method).items()}
        return params

    def set_params(self, **params):
        """Set parameters, `method__<field>` those of the method.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is no such parameter, or the method has no such field.
        """
        method = params.pop("method", self.method)
        prefix = "method__"
        changes = {
            name.removeprefix(prefix): params.pop(name)
            for name in [*params]
            if name.startswith(prefix)
        }
        fields = _fields(method)
        for name in changes:
            if name not in fields:
                raise ValueError(
                    f"{prefix}{name}: {type(method).__name__} has no field "
                    f"{name!r}; its fields are {', '.join(fields) or 'none'}."
                )
        if isinstance(method, SavedMethod):
            changes = {"fields": {**method.fields, **changes}}
        if changes:
            method = dataclasses.replace(method, **changes)
        super().set_params(**params)
        self.method = method  # last: a name that is wrong changes nothing of it
        return self

    def _validate_params(self):
        super()._validate_params()
        if isinstance(self.method, SavedMethod):
            return
        from skdebias.methods import Method  # torch, which predicting does not need
        from skdebias.methods._checks import check_definition

        if not isinstance(self.method, Method):
            raise TypeError(
                f"method={self.method!r} is no method: give an instance of one of "
                "skdebias.methods, such as GERNE(beta=0.5), or of a subclass of "
                "skdebias.methods.Method."
            )
        check_definition(self.method)

    def _uses_attributes(self):
        return restored(self.method).uses_attributes

    def _make_method(self, data, stage):
        return restored(self.method)

    @property
    def _trains_networks(self):
        return getattr(restored(self.method), "trains_networks", True)


def check_unlabeled(estimator, X_unlabeled, name):
    """Refuse rows without labels that a method does not use, or lacks.

    Parameters
    ----------
    estimator : object
        Of one that is no DebiasedClassifier, no method uses any.
    X_unlabeled : array-like or None
    name : str
        Of the class whose `fit` was given them.

    Raises
    ------
    ValueError
    """
    method = getattr(estimator, "method", estimator)
    used = getattr(restored(method), "uses_unlabeled", False)
    label = method.name if isinstance(method, SavedMethod) else type(method).__name__
    if used and X_unlabeled is None:
        raise ValueError(
            f"{label} learns from rows without labels: pass X_unlabeled to fit of "
            f"{name}."
        )
    if not used and X_unlabeled is not None:
        raise ValueError(
            f"X_unlabeled has no effect: {label} does not use rows without labels. "
            "Leave it out, or choose a method that does."
        )


@dataclasses.dataclass(frozen=True)
class SavedMethod:
    """A method in a file: its class by name, and its fields.

    It stands for the method until that is needed, which brings torch.

    Parameters
    ----------
    name : str
        Of the class, in `skdebias.methods`.
    fields : dict of str to object
    """

    name: str
    fields: dict

    def __repr__(self):
        fields = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"{self.name}({fields})"


def saved(method):
    """Return what stands for a method in a file.

    Parameters
    ----------
    method : Method or SavedMethod

    Returns
    -------
    SavedMethod
    """
    if isinstance(method, SavedMethod):
        return method
    return SavedMethod(type(method).__name__, _fields(method))


def restored(method):
    """Return the method that a saved one stands for; others as they are.

    Parameters
    ----------
    method : object

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If its class is not one of `skdebias.methods`.
    """
    if not isinstance(method, SavedMethod):
        return method
    from skdebias import methods

    kind = (
        getattr(methods, method.name, None) if method.name in methods.__all__ else None
    )
    if not (isinstance(kind, type) and issubclass(kind, methods.Method)):
        raise ValueError(
            f"method={method!r} comes from a file, which holds the name of its class "
            "and no code, and skdebias.methods has no such class: give "
            f"method=<your {method.name}> by set_params before fitting again."
        )
    return kind(**method.fields)


def _fields(method):
    """Return the fields of a method that can be set, by name."""
    if isinstance(method, SavedMethod):
        return method.fields
    if not dataclasses.is_dataclass(method) or isinstance(method, type):
        return {}
    names = [field.name for field in dataclasses.fields(method) if field.init]
    return {name: getattr(method, name) for name in names}
