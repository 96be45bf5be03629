"""One fit of networks: from checked input to trained weights."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from skdebias._engine._problem import Fitted
from skdebias._engine._selection import Stopping
from skdebias._engine._threads import one_thread
from skdebias._prepare import Prepared, draw_seed, prepare, warn_of_attributes
from skdebias.finetune._accelerate import agreed, find_accelerator
from skdebias.finetune._building import add_heads, check_heads, initial_network
from skdebias.finetune._checkpoint import Checkpoints
from skdebias.finetune._extraction import auto_workers
from skdebias.finetune._input import FitInput
from skdebias.finetune._models import NetworkFactory
from skdebias.finetune._network import Network
from skdebias.finetune._parameters import rows_per_pass, train_config
from skdebias.finetune._run_key import describe_request, describe_run, digest
from skdebias.finetune._runs import Runs, resumed
from skdebias.finetune._state import Checkpoint
from skdebias.finetune._training import NetworkTraining
from skdebias.finetune._validation import NetworkValidationScorer
from skdebias.methods import GERNE

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier


@dataclass(frozen=True)
class TrainedNetworks:
    """What training gave a classifier.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        The method's, not fitted.
    prepared : Prepared
    result : Fitted
        How training went.
    networks : list of Network
        One for each head of the method; the last one is the result.
    input_shapes : dict of str to list
        Sizes of one item and type, of each tensor that the networks take.
    """

    estimator: Any
    prepared: Prepared
    result: Fitted
    networks: list[Network]
    input_shapes: dict[str, list[Any]]


class NetworkFit:
    """One fit of a classifier, on which it sets nothing.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    estimator : BaseDebiasedClassifier
        The method's, configured.
    settings : dict
        What :func:`backbone_settings` returned.
    fit_input : FitInput
    models : NetworkFactory
        Where the first stage of the method gets its models.
    origin : Network or None
        As for :func:`initial_network`.
    """

    def __init__(
        self,
        classifier: "BaseNetworkClassifier",
        estimator: Any,
        settings: dict[str, Any],
        fit_input: FitInput,
        models: NetworkFactory,
        origin: Network | None,
    ) -> None:
        self._classifier = classifier
        self._estimator = estimator
        self._input = fit_input
        self._models = models
        self._settings = settings
        self._origin = origin
        self._accelerator = find_accelerator(classifier.device, classifier.precision)
        self._config = train_config(classifier)
        self._hidden_layer_sizes = [int(n) for n in estimator.hidden_layer_sizes]
        self._input_shapes: dict[str, list[Any]] = {}
        self._unused: list[Network] = []

    def run(self) -> TrainedNetworks:
        """Train, or go on from a checkpoint.

        Returns
        -------
        TrainedNetworks
        """
        classifier, directory = self._classifier, self._classifier.checkpoint_dir
        runs = None if directory is None else Runs(directory)
        seed = agreed(draw_seed(classifier.random_state))
        self._unused = [self._new_network()]
        run = {} if runs is None else self._describe(runs)
        with ExitStack() as claimed:
            checkpoints = None
            if runs is not None and classifier.random_state is None:
                request = describe_request(
                    run, classifier, self._estimator, self._input
                )
                is_main = self._accelerator.is_main_process
                seed, checkpoints = claimed.enter_context(
                    runs.unseeded(digest(request), seed, is_main)
                )
            prepared = self._prepare(seed)
            if runs is not None and checkpoints is None:
                run |= {"seed": seed, "groups": prepared.groups.ids}
                run |= {"method": prepared.method}
                inferred = prepared.encoded.validation
                if inferred is not None and inferred is not (
                    self._input.encoded.validation
                ):
                    # What is inferred of validation items selects the epoch.
                    run["inferred"] = [inferred["groups"].ids, inferred["selection"]]
                checkpoints = runs.find(digest(run), self._config)
            training = resumed(
                partial(self._start, prepared, checkpoints),
                checkpoints,
                self._config.n_steps(len(prepared.y_codes)),
            )
            name = type(self._estimator).__name__
            result = training.run(name, bool(classifier.verbose))
        return TrainedNetworks(
            self._estimator,
            prepared,
            result,
            training.networks(),
            self._input_shapes,
        )

    def _new_network(self, layer: str | None = None) -> Network:
        """Return a network without a head, as deep as a layer of the backbone."""
        settings = (
            self._settings if layer is None else {**self._settings, "layer": layer}
        )
        return initial_network(self._classifier, settings, self._origin)

    def _describe(self, runs: Runs) -> dict[str, Any]:
        """Return what determines the result, but for seed, groups and method."""
        return describe_run(
            self._classifier,
            self._estimator,
            self._unused[0],
            self._config,
            self._input,
            self._accelerator,
            runs.memo,
        )

    def _prepare(self, seed: int) -> Prepared:
        data = self._input.training_data(seed, self._models)
        with one_thread(self._accelerator.device):
            prepared = prepare(self._estimator, data, self._input.encoded)
        warn_of_attributes(self._estimator, prepared)
        check_heads(prepared.method)
        return prepared

    def _start(
        self,
        prepared: Prepared,
        checkpoints: Checkpoints | None,
        checkpoint: Checkpoint | None,
    ) -> NetworkTraining:
        """Return the training before its first step, or after a checkpoint."""
        classifier, method = self._classifier, prepared.method
        source, unlabeled = self._input.source, self._input.unlabeled
        # The one that the run was described by; checkpoints may be tried in turn.
        result = self._unused.pop() if self._unused else self._new_network()
        self._load_items(result, prepared, checkpoint)
        networks = [self._new_network(head.layer) for head in method.heads[:-1]]
        networks.append(result)
        self._input_shapes, auxiliary = add_heads(
            classifier, networks, self._hidden_layer_sizes, prepared, source
        )
        return NetworkTraining(
            networks,
            source,
            prepared.y_codes.astype(np.int64),
            prepared.groups,
            method,
            prepared.data.seed,
            self._config,
            self._accelerator,
            stopping=Stopping(
                classifier.early_stopping, classifier.tol, classifier.n_iter_no_change
            ),
            validation=self._validation_scorer(result, prepared.validation),
            checkpoints=checkpoints,
            checkpoint=checkpoint,
            point=classifier.saliency_layer,
            unlabeled=unlabeled,
            auxiliary=auxiliary,
            method_settings=_settings_of(method),
        )

    def _load_items(
        self,
        network: Network,
        prepared: Prepared,
        checkpoint: Checkpoint | None,
    ) -> None:
        """Prepare items that fit the memory, unless none is read again."""
        header = {} if checkpoint is None else checkpoint[1]
        last_step = self._config.n_steps(len(prepared.y_codes))
        if header.get("stopped") or header.get("step") == last_step:
            return
        sources = [self._input.source]
        if self._input.unlabeled is not None:
            sources.append(self._input.unlabeled)
        if prepared.validation is not None:
            sources.append(prepared.validation["X"])
        budget = self._classifier.memory << 20
        for source in sources:
            source.load(network.embedder, budget, auto_workers(len(source)))

    def _validation_scorer(
        self, network: Network, validation: dict[str, Any] | None
    ) -> NetworkValidationScorer | None:
        if validation is None:
            return None
        return NetworkValidationScorer(
            validation["y"],
            validation["groups"],
            validation["selection"],
            validation["X"],
            network.embedder,
            self._accelerator,
            2 * rows_per_pass(self._classifier, self._accelerator),
            self._classifier.learning_rate,
        )


def _settings_of(method: Any) -> str:
    """Return what a message on a diverged fit says of the method."""
    if not isinstance(method, GERNE):
        return ""
    return f" with beta={method.beta:g} and c={method.c:g}"
