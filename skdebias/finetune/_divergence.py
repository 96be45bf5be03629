"""What is refused of a training whose numbers are no longer finite."""

from pathlib import Path
from typing import Any

import torch

from skdebias._engine._sgd import DivergenceError
from skdebias.finetune._accelerate import local_shard
from skdebias.finetune._extraction import to_device
from skdebias.finetune._gradients import run_networks
from skdebias.finetune._state import TrainingState


class DivergenceChecks:
    """Looks at objective, weights and outputs of a training.

    Parameters
    ----------
    state : TrainingState
    accelerator : accelerate.Accelerator
    learning_rate : float
        For messages.
    method_settings : str
        What a message says of the method.
    folder : Path or None
        Of checkpoints, for messages.
    """

    def __init__(
        self,
        state: TrainingState,
        accelerator: Any,
        learning_rate: float,
        method_settings: str,
        folder: Path | None,
    ) -> None:
        self._state = state
        self._accelerator = accelerator
        self._learning_rate = learning_rate
        self._method_settings = method_settings
        self._folder = folder
        # Some hold infinities on purpose, such as masks of attention.
        self._finite_buffers = [
            buffer
            for buffer in state.model.buffers()
            if bool(local_shard(buffer).isfinite().all())
        ]

    def check_objective(self) -> None:
        """Refuse an objective that is not finite."""
        state = self._state
        if bool(torch.isfinite(state.objective).all()):
            return
        where = (
            f"in step {state.step + 1} (epoch {state.epoch + 1}){self._method_settings}"
        )
        if state.step == 0:
            raise DivergenceError(
                f"The training objective is not finite {where}, before any weight has "
                "been changed: look for values of items that are not finite or very "
                "large once they are prepared and augmented, or choose "
                "precision='float32'."
            )
        raise self._divergence(f"The training objective is no longer finite {where}")

    def check_weights(self) -> None:
        """Refuse weights, or running statistics, that a step has ruined."""
        state = self._state
        values = (*state.model.parameters(), *self._finite_buffers)
        finite = [local_shard(value).isfinite().all() for value in values]
        ruined = (~torch.stack(finite).all()).float()
        if bool(self._accelerator.reduce(ruined, reduction="sum")):
            epoch = -(-state.step // state.methods.steps_per_epoch)
            raise self._divergence(
                "A weight, or a running statistic, is no longer finite after step "
                f"{state.step} (epoch {epoch}){self._method_settings}"
            )

    def check_outputs(self, batch: Any) -> None:
        """Refuse finite weights whose outputs are not, after the last step of all.

        Parameters
        ----------
        batch : Tensor or dict of Tensor
            Prepared items, on the CPU.
        """
        model, accelerator = self._state.model, self._accelerator
        model.eval()
        with torch.no_grad():
            outputs, _ = run_networks(
                model, to_device(batch, accelerator.device), accelerator
            )
        ruined = torch.stack([~out.isfinite().all() for out in outputs]).any().float()
        if bool(accelerator.reduce(ruined, reduction="sum")):
            raise self._divergence(
                "The outputs of the network are not finite after the last step, a "
                f"weight of which is too large{self._method_settings}"
            )

    def _divergence(self, what: str) -> DivergenceError:
        last_good = ""
        if self._folder is not None:
            last_good = f" The last good checkpoint is in {str(self._folder)!r}."
        return DivergenceError(
            f"{what}: lower learning_rate (now {self._learning_rate:g}), set "
            f"clip_norm, or raise warmup.{last_good}"
        )
