"""Base class of the estimators whose head the engine trains."""

from abc import abstractmethod
from numbers import Integral, Real

import numpy as np

from skdebias._auto import OptimizerHooks, with_numbers
from skdebias._head import HeadClassifier
from skdebias._sklearn import Interval, StrOptions

# A wider layer would need gigabytes for the weights of a few hundred features.
_WIDEST = 1 << 20


class BaseDebiasedClassifier(OptimizerHooks, HeadClassifier):
    """Classifier whose head is trained by a debiasing method.

    A subclass declares its parameters and says in :meth:`_make_method` which method
    they stand for. Everything else is here and in the engine.
    """

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like"],
        "solver": [StrOptions({"sgd", "adamw", "lbfgs"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "selection": [
            StrOptions(
                {
                    "auto",
                    "worst_group",
                    "worst_inferred_group",
                    "group_balanced",
                    "worst_class",
                    "accuracy",
                    "last",
                }
            )
        ],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def __init__(
        self,
        *,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.solver = solver
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.selection = selection
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _validate_params(self):
        super()._validate_params()
        sizes = tuple(self.hidden_layer_sizes)
        for size in sizes:
            is_whole_number = isinstance(size, Integral) and not isinstance(size, bool)
            if not (is_whole_number and 1 <= size <= _WIDEST):
                raise ValueError(
                    f"hidden_layer_sizes={sizes} must hold whole numbers between 1 and "
                    f"{_WIDEST}, such as (64,); () is a linear head."
                )

    @abstractmethod
    def _make_method(self, data, stage):
        """Return the method of `skdebias.methods` that the parameters stand for.

        Parameters
        ----------
        data : TrainingData
        stage : FirstStage
            What was learned before, with the groups of the training rows.

        Returns
        -------
        Method
        """

    @property
    def _trains_networks(self):
        """Whether the method can train whole networks, not only their last layers."""
        return True

    def _n_epochs(self, prepared):
        return with_numbers(self, not prepared.stage.inferred).max_iter

    def _train(self, prepared, task):
        from skdebias._fit import StackFit

        (trained,) = StackFit([self], [prepared], task=task).run()
        trained.method.check_result(trained.result)
        return trained.attributes

    def _check_warm_start(self, before, classes):
        """Refuse to go on from a head that gives its outputs another meaning."""
        if not self.warm_start or "n_iter_" not in before:
            return
        names = {
            "classes_": "classes",
            "n_features_in_": "features",
            "feature_names_in_": "names of features",
        }
        for name, what in names.items():
            old = before.get(name)
            new = classes if name == "classes_" else vars(self).get(name)
            unnamed = name == "feature_names_in_" and (old is None or new is None)
            if not (unnamed or np.array_equal(old, new)):
                raise ValueError(
                    f"warm_start=True, but the fitted head has other {what} "
                    f"({_listed(old)}) than these data ({_listed(new)}): fit a clone "
                    "instead."
                )


def shared_parameters():
    """Return the parameters that all estimators with an engine's head have.

    Returns
    -------
    dict of str to object
        Their defaults, by name.
    """
    return BaseDebiasedClassifier.__init__.__kwdefaults__


def trains_networks(estimator):
    """Return whether an estimator's method can train whole networks.

    Parameters
    ----------
    estimator : object

    Returns
    -------
    bool
        False of what is no estimator with an engine's head.
    """
    is_head = isinstance(estimator, BaseDebiasedClassifier)
    return is_head and estimator._trains_networks


def _listed(values):
    """Name a number, or the first of several values."""
    if values is None or np.ndim(values) == 0:
        return values
    more = ", ..." if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more
