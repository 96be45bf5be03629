"""What "auto" stands for in the parameters of optimizers."""

from copy import copy

from skdebias._warnings import warn_caller

#: Weight decay where nothing chooses one.
DEFAULT_DECAY = 1e-2
#: Epochs, and iterations of the deterministic solver.
DEFAULT_EPOCHS, EXACT_MAX_ITER = 50, 1000
# Parameters of solvers with epochs.
_OF_EPOCHS = (
    "learning_rate", "momentum", "batch_size", "early_stopping", "n_iter_no_change",
)  # fmt: skip


class OptimizerHooks:
    """What an estimator says of its optimizer, for :func:`with_numbers` to ask."""

    def _resolved_solver(self, groups_known):
        """Return the solver, with what "auto" stands for.

        Parameters
        ----------
        groups_known : bool
            Whether the groups of the training rows are known, and not inferred.

        Returns
        -------
        {"sgd", "adamw", "lbfgs"}
        """
        return self.solver

    def _optimizer_parameters(self, groups_known):
        """Return the parameters of the optimizer, with what "auto" stands for.

        Parameters
        ----------
        groups_known : bool
            As of :meth:`_resolved_solver`.

        Returns
        -------
        dict of str to object
            `solver`, `max_iter` and `weight_decay`, which stays "auto" where the solver
            chooses it.
        """
        solver = self._resolved_solver(groups_known)
        exact = solver == "lbfgs"
        max_iter, decay = self.max_iter, self.weight_decay
        if max_iter == "auto":
            max_iter = EXACT_MAX_ITER if exact else DEFAULT_EPOCHS
        if decay == "auto" and not (exact and groups_known):
            decay = DEFAULT_DECAY
        return {"solver": solver, "max_iter": max_iter, "weight_decay": decay}


def with_numbers(estimator, groups_known=True):
    """Return an estimator whose optimizer has numbers in place of "auto".

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        It is not changed.
    groups_known : bool, default=True
        Whether the groups of the training rows are known, and not inferred.

    Returns
    -------
    BaseDebiasedClassifier
        The same, or a copy. A weight decay that its solver chooses stays "auto".
    """
    parameters = estimator._optimizer_parameters(groups_known)
    if all(getattr(estimator, name) == value for name, value in parameters.items()):
        return estimator
    numbered = copy(estimator)
    vars(numbered).update(parameters)
    return numbered


def warn_of_ineffective(estimator):
    """Warn of parameters that were chosen, and that the solver of "auto" has not.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        Its solver is "auto", which stands for the deterministic one.
    """
    defaults = type(estimator).__init__.__kwdefaults__
    chosen = [
        name
        for name in _OF_EPOCHS
        if name in defaults and getattr(estimator, name) != defaults[name]
    ]
    if chosen:
        name = type(estimator).__name__
        warn_caller(
            f"{', '.join(chosen)} of {name} without effect: solver='auto' stands for "
            "'lbfgs' here, which has no epochs. Give beta, or solver='sgd' or 'adamw', "
            "to train in epochs."
        )
