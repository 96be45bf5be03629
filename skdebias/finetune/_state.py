"""All that changes while networks train, which a checkpoint holds."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from skdebias._engine._selection import Tracker
from skdebias._engine._weighting import StackedMethods
from skdebias.finetune._accelerate import full_copy
from skdebias.finetune._checkpoint import UnusableCheckpointError, restore, snapshot
from skdebias.finetune._extraction import is_out_of_memory
from skdebias.finetune._validation import KeptNetworks

#: Tensors of a checkpoint, and the rest of it in JSON.
Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]

# Of states that are read: every process has all of it, whatever it trains of them.
_FULL = StateDictOptions(full_state_dict=True)
# The optimizer knows nothing of parameters that the embedding does not use.
_USED = StateDictOptions(full_state_dict=True, strict=False)
_MODEL = "model."


class TrainingState:
    """Where a training is: networks, optimizer, method and best epoch.

    Parameters
    ----------
    model : torch.nn.Module
        What Accelerate made of the networks.
    optimizer : accelerate.optimizer.AcceleratedOptimizer
    methods : StackedMethods
    tracker : Tracker
        Its stack is a NetworkStack of the model.
    accelerator : accelerate.Accelerator
    seed : int
        Of the run, by which it is known.
    n_steps : int
        Of the run.

    Attributes
    ----------
    step : int
        Steps made.
    stopped : bool
        Whether it was stopped early.
    objective : Tensor of shape (n_networks,)
        This process's sum over the steps of the epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        methods: StackedMethods,
        tracker: Tracker,
        accelerator: Any,
        seed: int,
        n_steps: int,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.methods = methods
        self.tracker = tracker
        self.seed = seed
        self.n_steps = n_steps
        self.step = 0
        self.stopped = False
        self.objective = torch.zeros(methods.n_heads, device=accelerator.device)
        self._accelerator = accelerator

    @property
    def epoch(self) -> int:
        """Number of epochs that are over."""
        return self.step // self.methods.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether the training is over."""
        return self.stopped or self.step == self.n_steps

    def checkpoint(self, *, extensible: bool) -> Checkpoint:
        """Return tensors and header of a checkpoint.

        Of a run that is over and cannot be extended, that is the networks that were
        kept; else all that the next step needs.

        Parameters
        ----------
        extensible : bool
            Whether a run's end may be the start of a longer one.
        """
        stack, kept = self.tracker.stack, self.tracker.result()
        model = stack.state()
        best = model if kept is stack else kept.state()
        goes_on = not self.done or (extensible and not self.stopped)
        weights = model if goes_on else best
        tensors = {f"{_MODEL}{name}": value for name, value in weights.items()}
        header: dict[str, Any] = {
            "step": self.step,
            "stopped": self.stopped,
            "seed": self.seed,
            "rule": snapshot(self.methods.weighting, "rule", tensors),
            "penalty": snapshot(self.methods.penalty, "penalty", tensors),
            "tracker": snapshot(self.tracker.state(), "tracker", tensors),
            "objective": snapshot(self.objective, "objective", tensors),
        }
        if self.methods.objective is not None:
            state = snapshot(self.methods.objective, "method_objective", tensors)
            header["method_objective"] = state
        if not goes_on:
            return tensors, header
        header["optimizer"] = snapshot(self._moments(), "optimizer", tensors)
        if best is not model:
            # Frozen parts are the same, and so is all in the best epoch.
            changed = {k: v for k, v in best.items() if not torch.equal(v, model[k])}
            header["kept"] = snapshot(changed, "kept", tensors)
        if self._accelerator.scaler is not None:
            header["scaler"] = self._accelerator.scaler.state_dict()
        return tensors, header

    def _optimizer_state(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(
            get_optimizer_state_dict(self.model, self.optimizer.optimizer)
        )
        return state

    def _moments(self) -> dict[str, dict[str, Any]]:
        """Return what the optimizer remembers of each parameter, on the CPU."""
        return {
            name: {key: full_copy(value) for key, value in moments.items()}
            for name, moments in self._optimizer_state()["state"].items()
        }

    def resume(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        UnusableCheckpointError
            If it is no state of this run; the training is then of no use.
        """
        try:
            self._check(tensors, header)
            self._set(tensors, header)
        except (MemoryError, OSError, UnusableCheckpointError):
            raise
        except Exception as error:
            # Whatever a file holds that a run would never write.
            if is_out_of_memory(error):
                raise
            raise UnusableCheckpointError(
                f"a checkpoint holds no state of this run ({error!r})"
            ) from error

    def _check(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        step = header["step"]
        is_number = type(step) is int and 0 < step <= self.n_steps
        if not is_number or header["seed"] != self.seed:
            raise UnusableCheckpointError("a checkpoint is of another run")
        wanted = get_model_state_dict(self.model)
        self._check_shapes({name: tensors.get(f"{_MODEL}{name}") for name in wanted})
        if "optimizer" not in header and not (
            header["stopped"] or step == self.n_steps
        ):
            raise UnusableCheckpointError("a checkpoint is of a shorter run")

    def _check_shapes(self, weights: dict[str, Any]) -> None:
        """Refuse tensors that are none of the networks', or of other shapes."""
        wanted_by_name = get_model_state_dict(self.model)
        for name, value in weights.items():
            wanted = wanted_by_name.get(name)
            if not (isinstance(value, Tensor) and isinstance(wanted, Tensor)) or (
                (value.shape, value.dtype) != (wanted.shape, wanted.dtype)
            ):
                raise UnusableCheckpointError("a checkpoint is of another network")

    def _set(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        device, methods = self._accelerator.device, self.methods
        weights = {
            name.removeprefix(_MODEL): value
            for name, value in tensors.items()
            if name.startswith(_MODEL)
        }
        # A copy: of replicas it changes the names in it.
        set_model_state_dict(self.model, dict(weights), options=_FULL)
        if "optimizer" in header:
            self._set_moments(header["optimizer"], tensors)
        methods.weighting = restore(methods.weighting, header["rule"], tensors, device)
        methods.penalty = restore(methods.penalty, header["penalty"], tensors, device)
        if methods.objective is not None:
            methods.objective = restore(
                methods.objective, header["method_objective"], tensors, device
            )
        self.objective = restore(self.objective, header["objective"], tensors, device)
        kept = None
        if "kept" in header:
            changed = restore({}, header["kept"], tensors, torch.device("cpu"))
            self._check_shapes(changed)
            kept = KeptNetworks({**weights, **changed})
        if "scaler" in header and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(header["scaler"])
        tracker = restore(self.tracker.state(), header["tracker"], tensors, device)
        self.tracker.resume(tracker, kept)
        self.step, self.stopped = header["step"], bool(header["stopped"])

    def _set_moments(self, described: Any, tensors: dict[str, Tensor]) -> None:
        state = self._optimizer_state()
        known = state["state"]
        moments = restore(known, described, tensors, self._accelerator.device)
        if not known.keys() >= moments.keys() or bool(known) > bool(moments):
            raise UnusableCheckpointError("a checkpoint is of another optimizer")
        set_optimizer_state_dict(
            self.model,
            self.optimizer.optimizer,
            {**state, "state": moments},
            options=_USED,
        )
        # To ask for the state makes one up for networks that have not been trained yet.
        for name, parameter in self.model.named_parameters():
            if name.removeprefix("module.") not in moments:
                self.optimizer.optimizer.state.pop(parameter, None)
