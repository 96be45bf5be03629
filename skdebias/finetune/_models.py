"""What the first stage of a method gets for models when networks are trained."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skdebias._erm import ERMClassifier

if TYPE_CHECKING:
    from skdebias.finetune._classifier import FineTuneClassifier


class NetworkFactory:
    """Networks in the place of heads; see :class:`skdebias._erm.HeadFactory`.

    Parameters
    ----------
    classifier : FineTuneClassifier
        Whose first stage it is.
    embed_untrained : callable
        From items to the embeddings of its backbone as it is before training.
    """

    def __init__(
        self,
        classifier: "FineTuneClassifier",
        embed_untrained: Callable[[Any], NDArray[np.float32]],
    ) -> None:
        self._classifier = classifier
        self._embed_untrained = embed_untrained

    def erm(self, **changes: Any) -> "FineTuneClassifier":
        """Return an unfitted network of the same kind that is trained by ERM.

        Parameters
        ----------
        **changes : dict
            Parameters to set instead; `balance` is that of the method.

        Returns
        -------
        FineTuneClassifier
        """
        estimator = ERMClassifier(
            balance=changes.pop("balance", None),
            hidden_layer_sizes=self._classifier.estimator.hidden_layer_sizes,
        )
        network: FineTuneClassifier = clone(self._classifier)
        return network.set_params(estimator=estimator, **changes)

    def last_layer(
        self,
        X: Any,
        y: Any,
        reference: Mapping[str, Any] | None,
        sample_weight: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float32], FrozenEstimator | None]:
        """Return embeddings and the head that reads them.

        Parameters
        ----------
        X : array-like
            Items.
        y : array-like of shape (n_samples,)
        reference : dict or None
            Changes to the network, which is trained first. None embeds with the
            backbone as it is.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights of the items.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features)
        head : FrozenEstimator or None
            A fitted head.
        """
        if reference is None:
            return self._embed_untrained(X), None
        network = self.erm(**reference).fit(X, y, sample_weight=sample_weight)
        return network.embed(X), FrozenEstimator(head_of(network))


def head_of(network: "FineTuneClassifier") -> ERMClassifier:
    """Return the head of a fitted network as an estimator on its embeddings.

    Parameters
    ----------
    network : FineTuneClassifier

    Returns
    -------
    ERMClassifier
    """
    layers = [
        (layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy())
        for layer in network.network_.linear_layers
    ]
    head = ERMClassifier(hidden_layer_sizes=[len(bias) for _, bias in layers[:-1]])
    head.classes_ = network.classes_
    head.n_features_in_ = layers[0][0].shape[1]
    head.n_iter_ = network.n_iter_
    if len(layers) == 1:
        head.coef_, head.intercept_ = layers[0]
    else:
        head.coefs_ = [np.ascontiguousarray(weight.T) for weight, _ in layers]
        head.intercepts_ = [bias for _, bias in layers]
    return head
