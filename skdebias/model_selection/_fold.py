"""Heads that see the same rows, prepared one by one and gathered into stacks."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import joblib

from skdebias._annotations import count_missing, plain_values
from skdebias._attributes import as_attribute_array
from skdebias._auto import with_numbers
from skdebias._base import BaseDebiasedClassifier
from skdebias._first_stage import infers_attributes, run_first_stage
from skdebias._mapped import take_rows
from skdebias._prepare import (
    blind_selection,
    draw_seed,
    encode,
    prepare,
    training_data,
)
from skdebias._sample_weight import (
    check_sample_weight,
    kept_attributes,
    kept_rows,
    positive,
)
from skdebias._training_data import weighed_validation
from skdebias.model_selection._candidates import CandidateKeys
from skdebias.model_selection._stack import CandidateStack, StackMember
from skdebias.model_selection._stack_limits import StackLimits

# Arguments of `fit` beside X and y.
_FIT_ARGUMENTS = (
    "attributes",
    "sample_weight",
    "X_val",
    "y_val",
    "attributes_val",
    "sample_weight_val",
)


class FeatureCache:
    """The engine's features of the X that was asked for last."""

    def __init__(self):
        self._X = self._device = self._features = None

    def get(self, X, device):
        """Return the features of X on a device.

        Parameters
        ----------
        X : ndarray or Tensor of shape (n_samples, n_features)
        device : str
            The parameter of an estimator.

        Returns
        -------
        Features
        """
        from skdebias._engine._features import Features
        from skdebias._fit import resolve_device

        if X is not self._X or device != self._device:
            # Two at a time may be more than the memory holds.
            self._X = self._device = self._features = None
            self._features = Features(X, resolve_device(device))
            self._X, self._device = X, device
        return self._features


class StackingContext(NamedTuple):
    """What the folds of a search share.

    Parameters
    ----------
    keys : CandidateKeys
    features : FeatureCache
    limits : StackLimits
    on_scored : callable
        Called without arguments for every fit that has been scored, or has failed.
    """

    keys: CandidateKeys
    features: FeatureCache
    limits: StackLimits
    on_scored: Callable


class Fold:
    """Heads that see the same rows, on their way into stacks.

    Parameters
    ----------
    context : StackingContext
    scores : SplitScores
    rows : SplitRows
    fit_params : dict
        Arguments of the heads' `fit` beside X and y.
    """

    def __init__(self, context, scores, rows, fit_params):
        self._context, self._scores, self._rows = context, scores, rows
        self._given = {**dict.fromkeys(_FIT_ARGUMENTS), **fit_params}
        self._encoded = {}
        self._first_stages = {}

    @cached_property
    def _shared_seed(self):
        """Seed of the heads without one: with several, each would be a stack."""
        return draw_seed(None)

    @cached_property
    def _kept(self):
        """Numbers of the training rows of positive weight, and `fit`'s arguments."""
        params, train = (
            self._given | weighed_validation(**self._given),
            self._rows.train,
        )
        if count_missing(params["attributes"]) == "none":
            # Every candidate asks whether some are missing, which objects are slow to
            # say.
            array = as_attribute_array(params["attributes"], "attributes")
            params = params | {"attributes": plain_values(array)}
        weights = check_sample_weight(params["sample_weight"], len(train))
        weights, kept = positive(weights)
        params = params | {"sample_weight": weights}
        if kept is None:
            return train, params
        of_rows = {
            "attributes": kept_attributes(params["attributes"], kept, "attributes"),
            "X_student": kept_rows(params.get("X_student"), kept),
        }
        return train[kept], params | {k: v for k, v in of_rows.items() if k in params}

    def stacks(self, candidates):
        """Yield the stacks of the candidates; fit those that are none here.

        Parameters
        ----------
        candidates : list of (int, HeadClassifier)
            Numbers and heads.

        Yields
        ------
        CandidateStack
        """
        members_by_key = {}
        for number, model in candidates:
            try:
                if not isinstance(model, BaseDebiasedClassifier):
                    self._fit_alone(number, model)
                    continue
                key, member = self._prepare(number, model)
            except Exception:
                self._scores.fail(number)
                self._context.on_scored()
                continue
            members_by_key.setdefault(key, []).append(member)
        for members in members_by_key.values():
            yield from self._divide(members)

    def _divide(self, members):
        """Yield stacks of members that fit the memory."""
        from skdebias._engine._loss import n_logits

        prepared = members[0].prepared
        first = with_numbers(members[0].model, not prepared.stage.inferred)
        n_outputs = n_logits(len(prepared.classes))
        size = self._context.limits.most_candidates(
            first,
            [self._rows.X.shape[1], *first.hidden_layer_sizes, n_outputs],
            len(self._rows.y),
            prepared.method.n_heads,
            len(members),
        )
        for start in range(0, len(members), size):
            yield CandidateStack(
                members[start : start + size],
                self._scores,
                self._rows,
                self._kept[0],
                self._context.features.get(self._rows.X, first.device),
                self._context.on_scored,
            )

    def _prepare(self, number, model):
        """Bring a head to where its training begins.

        Returns
        -------
        key : tuple
            Equal for the heads of one stack.
        member : StackMember
        """
        data, encoded, stage_key = self._first_stage(number, model)
        prepared = prepare(model, data, encoded, self._first_stages[stage_key])
        numbered = with_numbers(model, groups_known=not prepared.stage.inferred)
        if numbered.solver == "lbfgs":
            from skdebias._engine._lbfgs import check_alone

            check_alone(prepared.method, prepared.groups, prepared.y_codes)
        structure = self._context.keys.structure(number, model, prepared.method)
        return (stage_key, structure), StackMember(number, model, prepared)

    def _first_stage(self, number, model):
        """Run the first stage of a head, unless another has one alike.

        Returns
        -------
        data : TrainingData
        encoded : Encoded
        stage_key : tuple
            Of the stage.
        """
        params = self._kept[1]
        given = params["attributes"], params["attributes_val"]
        infers = infers_attributes(model, *given)
        stage_key = self._context.keys.first_stage(number, model, infers)
        if model.random_state is None:
            seed = int(self._shared_seed)
        else:
            seed = int(draw_seed(model.random_state))
        vars(model).update(self._rows.validation_attributes)
        data = self._data(model, seed, with_X=stage_key is not None)
        # Those of classes are parameters of the candidates.
        weights = joblib.hash((data.sample_weight, data.kept))
        # "auto" is one score with early stopping, and another without.
        key = blind_selection(model, data.attributes_val), weights
        if key not in self._encoded:
            self._encoded[key] = encode(model, data)
        encoded = self._encoded[key]
        stage_key = type(model), seed, stage_key, weights
        if stage_key not in self._first_stages:
            self._first_stages[stage_key] = run_first_stage(model, data, encoded)
        return data, encoded, stage_key

    @cached_property
    def _X_train(self):
        """The training rows in one piece, for what does not take row numbers."""
        return take_rows(self._rows.X, self._kept[0])

    def _data(self, model, seed, *, with_X):
        train, fit_params = self._kept
        with_X = with_X or fit_params.get("X_student") is not None
        return training_data(
            model,
            self._X_train if with_X else None,
            self._rows.y[train],
            seed=seed,
            **fit_params,
        )

    def _fit_alone(self, number, model):
        """Fit and score a head that the engine does not train."""
        rows = self._rows
        start = time.perf_counter()
        train, fit_params = self._kept
        fit_params = fit_params | self._inferred(number, model)
        model.fit(self._X_train, rows.y[train], **fit_params)
        seconds = time.perf_counter() - start
        self._scores.score(number, model, rows.preprocessing, None, seconds)
        self._context.on_scored()

    def _inferred(self, number, model):
        """Return attributes that are inferred, once for all heads that are alike."""
        given = self._kept[1]["attributes"], self._kept[1]["attributes_val"]
        if not infers_attributes(model, *given) or model.pseudo_attributes is None:
            return {}
        if model.selection == "worst_inferred_group":
            return {}  # it asks for what infers, and not only for what was inferred
        data, encoded, stage_key = self._first_stage(number, model)
        stage = self._first_stages[stage_key]
        attributes_val = data.attributes_val
        if count_missing(attributes_val, "attributes_val") == "some":
            attributes_val = stage.attributes_of_validation(data, encoded)
        return {"attributes": stage.attributes, "attributes_val": attributes_val}
