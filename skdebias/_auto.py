"""What "auto" stands for in the parameters of optimizers."""

from copy import copy

#: Weight decay where nothing chooses one.
DEFAULT_DECAY = 1e-2


class OptimizerHooks:
    """What an estimator says of its optimizer, for :func:`with_numbers` to ask."""

    def _optimizer_parameters(self, groups_known=True):
        """Return the parameters of the optimizer, with what "auto" stands for.

        Parameters
        ----------
        groups_known : bool, default=True
            Whether the groups of the training rows are known, and not inferred.

        Returns
        -------
        dict of str to object
            `solver`, `max_iter` and `weight_decay`, which stays "auto" where the solver
            chooses it.
        """
        decay = self.weight_decay
        if decay == "auto" and not (self.solver == "lbfgs" and groups_known):
            decay = DEFAULT_DECAY
        return {
            "solver": self.solver,
            "max_iter": self.max_iter,
            "weight_decay": decay,
        }


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
