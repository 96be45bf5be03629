"""The candidates of a search, and what several of them have in common."""

import joblib
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skdebias._first_stage import first_stage_settings
from skdebias._head import HeadClassifier, final_head
from skdebias._sklearn import validate_params

# Hyper-parameters of the optimizers that every stack holds as one number per head.
_RATES = ("learning_rate", "weight_decay", "momentum")


def check_stackable(estimator, search):
    """Refuse an estimator that is not a head of this package.

    Parameters
    ----------
    estimator : object
    search : str
        Named in the message.

    Raises
    ------
    ValueError
    """
    final = final_head(estimator)
    if not isinstance(final, HeadClassifier):
        raise ValueError(
            f"estimator={final!r} cannot be trained in stacks: {search} takes head "
            "estimators of skdebias, alone or at the end of a Pipeline. Use "
            "sklearn.model_selection.GridSearchCV for others."
        )


def group_by_preprocessing(estimator, candidates):
    """Make the heads of all candidates, grouped by the steps before them.

    Parameters
    ----------
    estimator : HeadClassifier, or Pipeline that ends in one
    candidates : list of dict

    Returns
    -------
    list of (Pipeline or None, list of (int, HeadClassifier))
        A pipeline with the steps of a group, and the number and the head of every
        candidate in it.
    """
    groups = {}
    for number, candidate in enumerate(candidates):
        full = clone(estimator)
        full.set_params(**clone(candidate, safe=False))
        pipeline, model, key = None, full, None
        if isinstance(full, Pipeline):
            pipeline, model = full, full[-1]
            steps = full[:-1].steps
            key = joblib.hash([(name, type(t), t.get_params()) for name, t in steps])
        check_stackable(model, "a batched search")
        groups.setdefault(key, (pipeline, []))[1].append((number, model))
    return list(groups.values())


class CandidateKeys:
    """Hashes that are equal for candidates which share a first stage, or a stack.

    Each is computed once a candidate, and not again on every split.
    """

    def __init__(self):
        self._first_stage, self._structure = {}, {}

    def first_stage(self, number, model, infers):
        """Check the parameters of a candidate; return what its first stage reads.

        Parameters
        ----------
        number : int
            Of the candidate.
        model : HeadClassifier
        infers : bool
            Whether attributes are missing on this split.

        Returns
        -------
        str or None
            A hash, equal for candidates whose first stages are. None if there is none.
        """
        key = number, infers
        if key not in self._first_stage:
            validate_params(model)
            settings = first_stage_settings(model, infers)
            self._first_stage[key] = joblib.hash(settings) if settings else None
        return self._first_stage[key]

    def structure(self, number, model, method):
        """Return what all heads of a stack have in common.

        Parameters
        ----------
        number : int
            Of the candidate.
        model : BaseDebiasedClassifier
        method : Method
            Of the candidate.

        Returns
        -------
        kind : type
            Of the method, which may be defined in a function: it is not hashed.
        structure : tuple
            That of the method.
        fixed : str
            A hash.
        """
        if number not in self._structure:
            kind, parameters = type(method), model.get_params(deep=False)
            varying = {*_RATES, "random_state", "verbose"}
            if not any(isinstance(value, kind) for value in parameters.values()):
                varying |= {*method.stackable}  # its fields are parameters themselves
            fixed = {
                name: value.fixed_fields() if isinstance(value, kind) else value
                for name, value in parameters.items()
                if name not in varying
            }
            self._structure[number] = kind, method.structure, joblib.hash(fixed)
        return self._structure[number]
