"""The training loop of whole networks, with the methods that train heads."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count, islice, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from skdebias._context import PLAIN_ATTENTION, switches
from skdebias._engine._problem import Fitted, Problem
from skdebias._engine._selection import Stopping, Tracker, ValidationScorer
from skdebias._engine._threads import one_thread
from skdebias._engine._weighting import StackedMethods
from skdebias._groups import Groups
from skdebias.finetune._checkpoint import Checkpoints
from skdebias.finetune._divergence import DivergenceChecks
from skdebias.finetune._draws import PassDraws
from skdebias.finetune._extraction import is_out_of_memory
from skdebias.finetune._freezing import training_mode
from skdebias.finetune._gradients import PassItems, StepGradients
from skdebias.finetune._items import AppendedItems, Items
from skdebias.finetune._layers import AuxiliaryHeads, layers_of
from skdebias.finetune._network import Network
from skdebias.finetune._networks import Networks
from skdebias.finetune._optimization import TrainConfig, make_optimizer
from skdebias.finetune._state import Checkpoint, TrainingState
from skdebias.finetune._validation import NetworkStack
from skdebias.methods import Method

# Steps between looks at the loss where a look waits for the GPU.
_STEPS_PER_LOOK = 50

# Row numbers of a step, and the items of each of its passes.
_StepItems = tuple[NDArray[np.int64], list[PassItems]]


class NetworkTraining:
    """Networks in training, which can be stopped at any step and resumed.

    Parameters
    ----------
    networks : sequence of Network
        As many as the method trains; the last one is the result.
    items : Items
        Training items.
    y : ndarray of shape (n_samples,)
        Class codes.
    groups : Groups
    method : Method
    seed : int
        Of the draws of rows, and of whatever is random in a step.
    config : TrainConfig
    accelerator : accelerate.Accelerator
    stopping : Stopping
    validation : ValidationScorer, default=None
    checkpoints : Checkpoints, default=None
        Where to write them.
    checkpoint : (dict of str to Tensor, dict), default=None
        The one to go on from. An UnusableCheckpointError says that it cannot be.
    point : str, default=None
        Where a penalty on saliencies takes them.
    method_settings : str, default=""
        What a message on a loss that is not finite says of the method.
    unlabeled : Items, default=None
        Items without labels.
    auxiliary : AuxiliaryHeads, default=None
        Those of the method.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        items: Items,
        y: NDArray[np.int64],
        groups: Groups,
        method: Method,
        seed: int,
        config: TrainConfig,
        accelerator: Any,
        *,
        stopping: Stopping,
        validation: ValidationScorer | None = None,
        checkpoints: Checkpoints | None = None,
        checkpoint: Checkpoint | None = None,
        point: str | None = None,
        method_settings: str = "",
        unlabeled: Items | None = None,
        auxiliary: AuxiliaryHeads | None = None,
    ) -> None:
        n_unlabeled = 0 if unlabeled is None else len(unlabeled)
        codes = torch.from_numpy(np.concatenate([y, np.full(n_unlabeled, -1)]))
        self._items = items if unlabeled is None else AppendedItems(items, unlabeled)
        self._networks = networks
        self._heads = method.heads
        self._config = config
        self._accelerator = accelerator
        self._checkpoints = checkpoints
        first_epoch = self._heads[-1].first_epoch
        if config.max_iter < first_epoch:
            raise ValueError(
                f"max_iter={config.max_iter}: {type(method).__name__} begins to train "
                f"its result in epoch {first_epoch}. Choose a larger max_iter."
            )
        methods = StackedMethods(
            [Problem([method], groups, seed, n_unlabeled=n_unlabeled)],
            codes,
            networks[-1].linear_layers[-1].out_features,
            config.batch_size,
            accelerator.device,
        )
        if methods.penalty is None:
            point = None
        model, optimizer = self._prepare(method, point, auxiliary or AuxiliaryHeads())
        stack = NetworkStack(model, len(networks))
        self._methods = methods
        self._clipped = [*networks, *(auxiliary or AuxiliaryHeads()).values()]
        self._state = TrainingState(
            model,
            optimizer,
            methods,
            Tracker(
                stack,
                stopping,
                validation,
                len(networks),
                methods.heads_are_alternatives,
                first_epoch,
            ),
            accelerator,
            seed,
            methods.steps_per_epoch * config.max_iter,
        )
        self._checks = DivergenceChecks(
            self._state,
            accelerator,
            config.learning_rate,
            method_settings,
            None if checkpoints is None else checkpoints.folder,
        )
        self._draws = PassDraws(model, seed, accelerator)
        self._gradients = StepGradients(
            model,
            methods,
            codes,
            self._draws,
            accelerator,
            config.accumulate,
            auxiliary,
            [network.head for network in networks],
        )
        if checkpoint is not None:
            self._state.resume(*checkpoint)

    def _prepare(
        self, method: Method, point: str | None, auxiliary: AuxiliaryHeads
    ) -> tuple[torch.nn.Module, Any]:
        """Return the networks as one model, and their optimizer, for the device."""
        accelerator, networks = self._accelerator, self._networks
        clean = [number for number, head in enumerate(self._heads) if head.clean]
        self._joint = method.joint_embeddings
        model = Networks(
            networks, point, clean, layers_of(method), auxiliary, joint=self._joint
        )
        if accelerator.num_processes > 1:
            # A backbone may have parts that its embedding does not use.
            embedder = networks[-1].embedder
            batch = next(self._items.batches(embedder, [(0, np.arange(1))]))
            has_unused = _has_unused(model, batch)
            accelerator.ddp_handler.find_unused_parameters = has_unused
        if accelerator.is_fsdp2 and (self._joint or len(auxiliary)):
            raise ValueError(
                f"{type(method).__name__} runs heads outside of the networks' own "
                "passes, which shards do not allow: launch replicas, without "
                "--use_fsdp."
            )
        beside = [(auxiliary[head.name], head.rate) for head in method.auxiliaries]
        optimizer = make_optimizer(networks, self._heads, self._config, beside)
        # Layers once sharded stay so; the results are networks like any other.
        self._result = copy.deepcopy(model) if accelerator.is_fsdp2 else model
        prepared: tuple[torch.nn.Module, Any] = accelerator.prepare(model, optimizer)
        return prepared

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self._state.step

    @property
    def epoch(self) -> int:
        """Number of epochs that are over."""
        return self._state.epoch

    @property
    def done(self) -> bool:
        """Whether the training is over."""
        return self._state.done

    def run(self, name: str, verbose: bool) -> Fitted:
        """Train to the end.

        Parameters
        ----------
        name : str
            Of the bar.
        verbose : bool
            Whether there is one.

        Returns
        -------
        Fitted
            Without a stack; the weights are in :meth:`networks`.

        Raises
        ------
        DivergenceError
            If the objective is no longer finite.
        MemoryError
            If a step does not fit the device.
        """
        bar = tqdm(
            total=self._config.max_iter,
            initial=self.epoch,
            desc=name,
            unit="epoch",
            disable=not (verbose and self._accelerator.is_main_process),
        )
        with bar, self._context():
            steps = self._steps()
            while not self.done:
                self._run_epoch(steps)
                bar.set_postfix(self._shown(), refresh=False)
                bar.update()
        tracker = self._state.tracker
        return Fitted(
            None,  # type: ignore[arg-type]
            tracker.n_iter,
            tracker.best_epoch,
            tracker.history,
            self._methods.weighting,
            objective=self._methods.objective,
            results=tracker.results,
        )

    def networks(self) -> list[Network]:
        """Return the trained networks of the epoch that was kept."""
        self._result.load_state_dict(self._state.tracker.result().state())
        networks = list(self._result.eval().members)
        if self._joint:
            alone = [network.bare() for network in networks]
            for number, network in enumerate(networks):
                others = alone[:number] + alone[number + 1 :]
                network.partners = torch.nn.ModuleList(others)
        return networks

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Hold what the numbers of a training depend on."""
        with ExitStack() as context:
            context.enter_context(self._draws.context())
            context.enter_context(one_thread(self._accelerator.device))
            if self._methods.penalty is not None:
                # Other attention kernels cannot be differentiated twice.
                kernels, _ = switches()["attention"]
                context.enter_context(kernels.held(PLAIN_ATTENTION, rank=1))
            yield

    def _shown(self) -> dict[str, float]:
        """Return what the bar says of the last epoch."""
        tracker = self._state.tracker
        (head,) = tracker.results
        shown = {"loss": float(tracker.history["loss"][-1][head])}
        if tracker.validation is not None:
            score = tracker.history["validation_score"][-1][head]
            shown[tracker.validation.selection] = float(score)
        return shown

    def _steps(self) -> Iterator[_StepItems]:
        """Yield the row numbers of each step, and this process's items."""
        first, last = self.step, self._state.n_steps
        passes, config = self._gradients.slots, self._config

        def batches(
            begin: int, augment: Callable[[Any], Any] | None
        ) -> Iterator[Iterator[Any]]:
            def tasks() -> Iterator[tuple[int, NDArray[np.int64]]]:
                for step, (rows,) in zip(count(begin), self._methods.rows(begin, last)):
                    for number, slots in enumerate(passes):
                        of_pass = self._gradients.rows_of_pass(step, rows, slots)
                        yield self._draws.seed_of(step, number), of_pass

            embedder, workers = self._networks[-1].embedder, config.num_workers
            read = self._items.batches(embedder, tasks(), workers, augment)
            for _ in range(begin, last):
                yield islice(read, len(passes))

        begin = int(min(max(first, self._first_clean_step()), last))
        clean = chain(repeat(repeat(None), begin - first), batches(begin, None))
        augmented = batches(first, config.augment)
        for (rows,), *items in zip(self._methods.rows(first, last), augmented, clean):
            yield rows, [PassItems(*pair) for pair in zip(*items)]

    def _first_clean_step(self) -> float:
        """Return the step from which on a network sees clean items."""
        if self._config.augment is None:
            return math.inf
        epochs = [head.epochs for head in self._heads if head.clean and head.epochs]
        return min(epochs, default=math.inf) * self._methods.steps_per_epoch

    def _run_epoch(self, steps: Iterator[_StepItems]) -> None:
        """Make the steps that are left of an epoch, and end it."""
        frozen_statistics = self._config.frozen_statistics
        training_mode(self._state.model, frozen_statistics=frozen_statistics)
        for network, head in zip(self._networks, self._heads):
            if not head.trains_in(self.epoch + 1):
                network.eval()  # frozen as a whole
        steps_per_epoch = self._methods.steps_per_epoch
        for _ in range(steps_per_epoch - self.step % steps_per_epoch):
            rows, batches = next(steps)
            self._make_step(rows, batches)
            self._checkpoint_within_epoch()
        self._end_epoch(batches[0].batch)

    def _make_step(self, rows: NDArray[np.int64], batches: list[PassItems]) -> None:
        state, config = self._state, self._config
        with self._naming_parameters():
            objective = self._gradients.accumulate(state.step, rows, batches)
        state.objective += objective
        if self._looks():
            self._checks.check_objective()
        for network, head in zip(self._networks, self._heads):
            if state.epoch + 1 < head.first_epoch:
                # Nor does the optimizer remember anything of it.
                network.zero_grad(set_to_none=True)
        if config.clip_norm is not None:
            for module in self._clipped:
                self._accelerator.clip_grad_norm_(module.parameters(), config.clip_norm)
        rate = config.rate(state.step, state.n_steps)
        for group in state.optimizer.param_groups:
            trains = self._heads[group["network"]].trains_in(state.epoch + 1)
            group["lr"] = rate * group["factor"] if trains else 0.0
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1

    @contextmanager
    def _naming_parameters(self) -> Iterator[None]:
        """Say in errors of a pass which parameters of the classifier help."""
        config = self._config
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "batch normalisation in training needs more than one row, and a pass "
                f"of accumulate={config.accumulate} and batch_size={config.batch_size} "
                "has only one: lower accumulate, raise batch_size, or choose "
                "batch_norm='frozen'."
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            raise MemoryError(
                f"a step of {len(self._gradients.slots[0])} rows in one pass does not "
                f"fit the memory of {self._accelerator.device}: raise accumulate (now "
                f"{config.accumulate}), lower batch_size (now {config.batch_size}), or "
                "choose precision='bfloat16'."
            ) from error

    def _looks(self) -> bool:
        """Return whether the objective of this step is looked at."""
        on_cpu = self._accelerator.device.type == "cpu"
        return on_cpu or self.step % _STEPS_PER_LOOK == 0

    def _end_epoch(self, batch: Any) -> None:
        state = self._state
        self._checks.check_objective()
        self._checks.check_weights()
        if self._accelerator.num_processes > 1:
            # Each process has seen its own rows, and keeps its own running statistics.
            for buffer in state.model.buffers():
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, 0)
        total = self._accelerator.reduce(state.objective, reduction="sum")
        losses = (total / self._methods.steps_per_epoch).double().cpu().numpy()
        state.objective.zero_()
        observed = self._methods.end_epoch(())
        state.stopped = bool(state.tracker.update(self.epoch, losses, observed))
        if self.done:
            self._checks.check_outputs(batch)
        self._save()

    def _checkpoint_within_epoch(self) -> None:
        every = self._config.checkpoint_every
        at_end = self.step % self._methods.steps_per_epoch == 0
        if every is None or self.step % every or at_end:
            return
        self._checks.check_objective()
        self._checks.check_weights()
        self._save()

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors, header = self._state.checkpoint(
            extensible=self._checkpoints.extensible
        )
        if self._accelerator.is_main_process:
            self._checkpoints.save(self.step, tensors, header, done=self.done)
        self._accelerator.wait_for_everyone()


def _has_unused(model: Networks, batch: Any) -> bool:
    """Return whether some of the networks' parameters do not matter to the logits."""
    model.eval()
    logits, _ = model(batch)
    torch.stack([part.sum() for part in logits]).sum().backward()
    parameters = model.members.parameters()
    unused = [p for p in parameters if p.requires_grad and p.grad is None]
    model.zero_grad(set_to_none=True)
    return bool(unused)
