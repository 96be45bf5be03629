"""The training loop of whole networks, with the methods that train heads."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm

from skdebias._attributes import Groups
from skdebias._context import PLAIN_ATTENTION, switches
from skdebias._device import automatic_device
from skdebias._engine._loss import cross_entropy
from skdebias._engine._problem import Fitted, Problem
from skdebias._engine._selection import (
    Stopping,
    Tracker,
    ValidationScorer,
    count_hits_and_losses,
)
from skdebias._engine._sgd import DivergenceError
from skdebias._engine._threads import one_thread
from skdebias._engine._weighting import StackedMethods
from skdebias.finetune._checkpoint import (
    Checkpoints,
    UnusableCheckpointError,
    restore,
    snapshot,
)
from skdebias.finetune._draws import may_draw
from skdebias.finetune._extraction import (
    Backbone,
    SeededGenerator,
    is_out_of_memory,
    to_device,
)
from skdebias.finetune._freezing import training_mode
from skdebias.finetune._items import Items
from skdebias.finetune._network import Network
from skdebias.finetune._networks import Networks, Points
from skdebias.finetune._passes import (
    buffers_kept,
    deal_slots,
    position_in_passes,
)
from skdebias.finetune._saliency import NetworkPass
from skdebias.methods import Head, Method

# Steps between looks at the loss where a look waits for the GPU.
_STEPS_PER_LOOK = 50
# Of states that are read: every process has the whole, whatever it trains of them.
_WHOLE = StateDictOptions(full_state_dict=True)
# The optimizer knows nothing of parameters that the embedding does not use.
_USED = StateDictOptions(full_state_dict=True, strict=False)


@dataclass(frozen=True)
class TrainConfig:
    """How networks are optimised.

    Parameters
    ----------
    optimizer : {"sgd", "adamw"}
    learning_rate, momentum : float
    weight_decay : float
        Of each network whose head says nothing else.
    schedule : {"constant", "linear", "cosine"}
        What the learning rate does after the warm-up.
    warmup : float
        Share of the steps in which it rises to its value.
    clip_norm : float or None
        Largest norm of the gradient of a network.
    batch_size, accumulate : int
        Rows of a step over all processes, and the passes that it is made in.
    max_iter : int
        Epochs.
    frozen_statistics : bool
        Of batch normalisation.
    augment : callable or None
    num_workers : int
    checkpoint_every : int or None
        Steps; None is at the end of each epoch only.
    """

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup: float
    clip_norm: float | None
    batch_size: int
    accumulate: int
    max_iter: int
    frozen_statistics: bool
    augment: Callable[[Any], Any] | None
    num_workers: int
    checkpoint_every: int | None

    def n_steps(self, n_samples: int) -> int:
        """Return the number of steps of a whole run."""
        return -(-n_samples // self.batch_size) * self.max_iter

    def described(self) -> dict[str, Any]:
        """Return what changes a number, but for `max_iter` and `augment`."""
        left_out = ("max_iter", "augment", "num_workers", "checkpoint_every")
        own = vars(self).items()
        return {name: value for name, value in own if name not in left_out}

    @property
    def extensible(self) -> bool:
        """Whether the steps of a run are the first ones of one with more epochs."""
        return self.schedule == "constant" and self.warmup == 0

    def rate(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        n_warm = round(self.warmup * n_steps)
        if step < n_warm:
            return self.learning_rate * (step + 1) / n_warm
        done = (step - n_warm) / max(1, n_steps - n_warm)
        if self.schedule == "linear":
            return self.learning_rate * (1.0 - done)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.learning_rate


def make_accelerator(device: str, precision: str) -> Any:
    """Return Accelerate's handle on devices, processes and number formats.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"float32", "bfloat16", "float16"}

    Returns
    -------
    accelerate.Accelerator

    Raises
    ------
    ImportError
        If Accelerate is missing.
    ValueError
        If there is no such device, or weights would be sharded by FSDP of version 1.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import (
            DistributedDataParallelKwargs,
            DistributedType,
            disable_fsdp_ram_efficient_loading,
        )
    except ImportError as error:
        raise ImportError(
            f"FineTuneClassifier needs the package accelerate ({error}). "
            'Run: pip install "skdebias[finetune]"'
        ) from error

    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
    settings = {
        "cpu": device == "cpu",
        "mixed_precision": names[precision],
        "kwargs_handlers": [DistributedDataParallelKwargs()],
    }
    try:
        made = Accelerator(**settings)
        # It remembers the settings of the process's first fit, and wants no others or
        # says nothing.
        available = automatic_device(needs_float64=False)
        stale = made.device.type == "cpu" and "cpu" not in (device, available)
    except ValueError:
        stale = True
    if stale:
        AcceleratorState._reset_state(reset_partial_state=True)
        made = Accelerator(**settings)
    if device not in ("auto", made.device.type):
        raise ValueError(
            f"device={device!r} cannot be used on this machine, which has "
            f"{made.device.type!r}: choose 'auto'."
        )
    if made.distributed_type == DistributedType.FSDP:
        if not made.is_fsdp2:
            raise ValueError(
                "fsdp_version=1: FineTuneClassifier shards weights by version 2 only. "
                "Run: accelerate launch --use_fsdp --fsdp_version 2 ..."
            )
        plugin = made.state.fsdp_plugin
        # Autocast chooses the format of each operation, as it does without sharding;
        # weights and gradients stay in float32.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # Every process builds its networks. Accelerate could load into empty ones, but
        # none that have buffers in their state, such as those of batch normalisation.
        plugin.cpu_ram_efficient_loading = False
        disable_fsdp_ram_efficient_loading()
    return made


def agreed(value: Any) -> Any:
    """Return the first process's value: each may have come to its own.

    Parameters
    ----------
    value : object
        A number or a text.

    Returns
    -------
    object
    """
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def agree_on_weights(module: torch.nn.Module) -> None:
    """Overwrite the weights and buffers of a module by those of the first process.

    Parameters
    ----------
    module : torch.nn.Module
    """
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return
    for value in module.state_dict().values():
        shared = value.to(state.device)
        torch.distributed.broadcast(shared, 0)
        value.copy_(shared)


class KeptNetworks:
    """Weights of all networks at the epoch that is kept so far.

    Parameters
    ----------
    state : dict of str to Tensor
        On the CPU.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def copy_heads(self, source: "NetworkStack", heads: Tensor) -> None:
        """Take over all weights: the networks of one method keep the same epoch."""
        self.state = source.state()


class NetworkStack:
    """The networks in training, as epochs are tracked and judged.

    Parameters
    ----------
    model : torch.nn.Module
        What Accelerate made of the networks.
    n_heads : int
        How many they are.
    """

    n_streams = 1

    def __init__(self, model: torch.nn.Module, n_heads: int) -> None:
        self.model = model
        self.n_heads = n_heads

    def state(self) -> dict[str, Tensor]:
        """Weights of all networks, on the CPU."""
        own = get_model_state_dict(self.model)
        return {name: _whole_copy(value) for name, value in own.items()}

    def clone(self) -> KeptNetworks:
        """Return a copy of the weights."""
        return KeptNetworks(self.state())


@dataclass(frozen=True)
class NetworkValidationScorer(ValidationScorer):
    """Validation items that score all networks.

    Parameters
    ----------
    items : Items
    embedder : Backbone
    accelerator : accelerate.Accelerator
    batch_size : int
        Rows of a forward pass.
    learning_rate : float
        For messages.
    """

    items: Items
    embedder: Backbone
    accelerator: Any
    batch_size: int
    learning_rate: float

    def group_results(
        self, stack: NetworkStack
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracy and mean loss of every network in every validation group.

        Parameters
        ----------
        stack : NetworkStack

        Returns
        -------
        accuracies, losses : ndarray of shape (n_groups, n_networks)
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        device = self.accelerator.device
        # Every process makes as many passes: surplus rows count for nothing.
        share = -(-len(self.y) // world)
        rows = np.arange(rank * share, (rank + 1) * share)
        parts = [
            rows[start : start + self.batch_size]
            for start in range(0, share, self.batch_size)
        ]
        n_groups = len(self.groups.counts)
        sums = torch.zeros(2, n_groups, stack.n_heads, device=device)
        clipped = ((0, np.minimum(part, len(self.y) - 1)) for part in parts)
        stack.model.eval()
        with torch.inference_mode():
            batches = self.items.batches(self.embedder, clipped)
            for part, batch in zip(parts, batches):
                with self.accelerator.autocast():
                    outputs, _ = stack.model(to_device(batch, device))
                own = part[part < len(self.y)]
                logits = torch.stack(outputs, 1)[None, : len(own)].float()
                y = torch.from_numpy(self.y[own]).to(device)
                ids = torch.from_numpy(self.groups.ids[own]).to(device)
                sums += count_hits_and_losses(logits, y, ids, n_groups)
        total = self.accelerator.reduce(sums, reduction="sum")
        if not bool(total.isfinite().all()):
            raise DivergenceError(
                "The network's outputs for X_val are not finite, though its weights "
                f"are: lower learning_rate (now {self.learning_rate:g}), choose "
                "precision='float32', or look for very large values in X_val."
            )
        means = total.double().cpu().numpy() / self.groups.counts[:, None]
        return means[0], means[1]


class NetworkTraining:
    """Networks in training, which can be stopped at any step and resumed.

    Parameters
    ----------
    members : sequence of Network
        As many as the method trains; the last one is the result.
    items : Items
        Training items.
    y : ndarray of shape (n_samples,)
        Class codes.
    groups : Groups
    method : Method
    seed : int
        Of the draws of rows, and of whatever is random in a step.
    recipe : TrainConfig
    accelerator : accelerate.Accelerator
    stopping : Stopping
    validation : ValidationScorer, default=None
    checkpoints : Checkpoints, default=None
        Where to write them.
    found : (dict of str to Tensor, dict), default=None
        The one to go on from. An UnusableCheckpointError says that it cannot be.
    point : str, default=None
        Where a penalty on saliencies takes them.
    describe : str, default=""
        What to add to the message on a loss that is not finite.
    """

    def __init__(
        self,
        members: Sequence[Network],
        items: Items,
        y: NDArray[np.int64],
        groups: Groups,
        method: Method,
        seed: int,
        recipe: TrainConfig,
        accelerator: Any,
        *,
        stopping: Stopping,
        validation: ValidationScorer | None = None,
        checkpoints: Checkpoints | None = None,
        found: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
        point: str | None = None,
        describe: str = "",
    ) -> None:
        self._items = items
        self._embedder = members[-1].embedder
        self._y = torch.from_numpy(y)
        self._seed = seed
        self._recipe = recipe
        self._accelerator = accelerator
        self._checkpoints = checkpoints
        self._describe = describe
        device = accelerator.device
        self._methods = StackedMethods(
            [Problem([method], groups, seed)],
            self._y,
            members[-1].linear_layers[-1].out_features,
            recipe.batch_size,
            device,
        )
        has_penalty = self._methods.penalty is not None
        networks = Networks(members, point if has_penalty else None)
        if accelerator.num_processes > 1:
            # A backbone may have parts that its embedding does not use.
            accelerator.ddp_handler.find_unused_parameters = _has_unused(
                members[-1], next(items.batches(self._embedder, [(0, np.arange(1))]))
            )
        self._heads = method.heads
        optimizer = _optimizer(members, self._heads, recipe)
        self._members = members
        self._result = networks
        if accelerator.is_fsdp2:
            # Layers once sharded stay so; the results are networks like any other.
            self._result = copy.deepcopy(networks)
        self._model, self._optimizer = accelerator.prepare(networks, optimizer)
        # Some hold infinities on purpose, such as masks of attention.
        self._finite_buffers = [
            buffer
            for buffer in self._model.buffers()
            if bool(_shard(buffer).isfinite().all())
        ]
        self.stack = NetworkStack(self._model, len(members))
        self.tracker = Tracker(self.stack, stopping, validation, len(members))

        self._steps_per_epoch = self._methods.steps_per_epoch
        self._n_steps = self._steps_per_epoch * recipe.max_iter
        world, rank = accelerator.num_processes, accelerator.process_index
        self._parts = deal_slots(self._methods.n_slots, world, rank, recipe.accumulate)
        position = position_in_passes([len(part) for part in self._parts])
        self._position = torch.from_numpy(position).to(device)
        self._objective = torch.zeros(len(members), device=device)
        self._generator: SeededGenerator | None = None
        self.step = 0
        self.done = self._stopped = False
        if found is not None:
            self._resume(*found)

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.step // self._steps_per_epoch

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
            Without a stack; the weights are in :meth:`network`.

        Raises
        ------
        DivergenceError
            If the objective is no longer finite.
        MemoryError
            If a step does not fit the device.
        """
        shown = verbose and self._accelerator.is_main_process
        bar = tqdm(
            total=self._recipe.max_iter,
            initial=self.epoch,
            desc=name,
            unit="epoch",
            disable=not shown,
        )
        device = self._accelerator.device
        with bar, self._own_draws(), one_thread(device), ExitStack() as context:
            if self._methods.penalty is not None:
                # Other attention kernels cannot be differentiated twice.
                kernels, _ = switches()["attention"]
                context.enter_context(kernels.held(PLAIN_ATTENTION, rank=1))
            steps = self._steps()
            while not self.done:
                training_mode(
                    self._model, frozen_statistics=self._recipe.frozen_statistics
                )
                for number, member in enumerate(self._members):
                    if self.epoch >= self._last_epoch(number):
                        member.eval()  # frozen as a whole
                for _ in range(
                    self._steps_per_epoch - self.step % self._steps_per_epoch
                ):
                    rows, batches = next(steps)
                    self._make_step(rows, batches)
                    self._checkpoint_within_epoch()
                self._end_epoch(batches[0])
                bar.set_postfix(self._shown(), refresh=False)
                bar.update()
        tracker = self.tracker
        return Fitted(
            None,  # type: ignore[arg-type]
            tracker.n_iter,
            tracker.best_epoch,
            tracker.history,
            self._methods.weighting,
        )

    def networks(self) -> list[Network]:
        """Return the trained networks of the epoch that was kept."""
        kept = self.tracker.result()
        state = kept.state if isinstance(kept, KeptNetworks) else kept.state()
        self._result.load_state_dict(state)
        return list(self._result.eval().members)

    def _shown(self) -> dict[str, float]:
        history, judge = self.tracker.history, self.tracker.validation
        shown = {"loss": float(history["loss"][-1][-1])}
        if judge is not None:
            shown[judge.selection] = float(history["validation_score"][-1][-1])
        return shown

    def _steps(self) -> Iterator[tuple[NDArray[np.int64], list[Any]]]:
        """Yield the row numbers of each step, and this process's batches."""
        recipe = self._recipe

        def tasks() -> Iterator[tuple[int, NDArray[np.int64]]]:
            drawn = self._methods.rows(self.step, self._n_steps)
            for step, (rows,) in zip(count(self.step), drawn):
                for number, part in enumerate(self._parts):
                    yield self._step_seed(step, number), rows[part]

        batches = self._items.batches(
            self._embedder, tasks(), recipe.num_workers, recipe.augment
        )
        for (rows,) in self._methods.rows(self.step, self._n_steps):
            yield rows, [next(batches) for _ in self._parts]

    def _step_seed(self, step: int, part: int) -> int:
        rank = self._accelerator.process_index
        bits = np.random.Philox(key=[self._seed, 3], counter=[0, step, part, rank])
        return int(bits.random_raw() >> np.uint64(1))

    def _own_draws(self) -> AbstractContextManager[Any]:
        """Return the context in which what passes draw follows from their seeds."""
        accelerator = self._accelerator
        if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
            cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
            return torch.random.fork_rng(devices=cuda)
        # To intercept operations takes time, so not where none of them draws.
        if may_draw(self._model):
            self._generator = SeededGenerator(0)
        return self._generator or nullcontext()

    def _set_seed(self, part: int) -> None:
        seed = self._step_seed(self.step, part)
        accelerator = self._accelerator
        if self._generator is not None:
            self._generator.manual_seed(seed)
        elif accelerator.device.type != "cpu":
            torch.manual_seed(seed)
        elif accelerator.num_processes > 1:
            # A hundredth of the time of torch.manual_seed, which asks for each device.
            torch.random.default_generator.manual_seed(seed)

    def _make_step(self, rows: NDArray[np.int64], batches: list[Any]) -> None:
        try:
            objective = self._differentiate(rows, batches)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            recipe = self._recipe
            raise ValueError(
                "batch normalisation in training needs more than one row, and a pass "
                f"of accumulate={recipe.accumulate} and batch_size={recipe.batch_size} "
                "has only one: lower accumulate, raise batch_size, or choose "
                "batch_norm='frozen'."
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            recipe = self._recipe
            raise MemoryError(
                f"a step of {len(self._parts[0])} rows in one pass does not fit the "
                f"memory of {self._accelerator.device}: raise accumulate (now "
                f"{recipe.accumulate}), lower batch_size (now {recipe.batch_size}), or "
                "choose precision='bfloat16'."
            ) from error
        self._objective += objective
        if self._looks():
            self._check_objective()
        if self._recipe.clip_norm is not None:
            for member in self._members:
                self._accelerator.clip_grad_norm_(
                    member.parameters(), self._recipe.clip_norm
                )
        rate = self._recipe.rate(self.step, self._n_steps)
        for group in self._optimizer.param_groups:
            last = self._last_epoch(group["member"])
            group["lr"] = rate if self.epoch < last else 0.0
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1

    def _last_epoch(self, member: int) -> float:
        epochs = self._heads[member].epochs
        return math.inf if epochs is None else epochs

    def _differentiate(self, rows: NDArray[np.int64], batches: list[Any]) -> Tensor:
        """Accumulate the gradients of a step; return this process's objective."""
        accelerator, device = self._accelerator, self._accelerator.device
        methods, index = self._methods, torch.from_numpy(rows)
        y = self._y[index].to(device)
        weights, values, term = methods.row_weighted(index[None]), None, None
        batches = [to_device(batch, device) for batch in batches]
        outlook = None
        if methods.sees_whole_steps and len(batches) > 1:
            # A rule wants the losses of the whole step before any of its weights.
            outlook = self._outputs_alone(batches, y)
        objective = torch.zeros_like(self._objective)
        for number, (part, batch) in enumerate(zip(self._parts, batches)):
            slots, used = torch.from_numpy(part).to(device), part >= 0
            with _synchronised(accelerator, self._model, number == len(batches) - 1):
                self._set_seed(number)
                outputs, points = self._forward(batch)
                logits = torch.stack(outputs, 1)[None]  # (1, r, M, n_logits)
                losses, residual = self._losses(logits, slots, y)
                if methods.sees_whole_steps and number == 0:
                    outlook = outlook or self._of_step([losses], [logits.detach()])
                    step = methods.step(self.step, index[None], outlook[0], y[None])
                    weights, values = methods.weigh(step)
                    term = methods.differentiate(step, outlook[1])
                mask = torch.from_numpy(used).to(device)[:, None]
                pass_weights = weights[:, slots] * mask
                # Signed weights make one backward pass of all batches of a plan. The
                # derivative of the losses is known; this starts from it.
                derivative = residual * pass_weights[..., None]
                if term is not None:
                    derivative = derivative + term.logits[:, slots] * mask[..., None]
                total = (logits * derivative).sum() * accelerator.num_processes
                if values is None:
                    objective += (losses * pass_weights).sum((0, 1))
                if methods.penalty is not None:
                    seen = methods.step_of_pass(
                        *(self.step, slots, pass_weights),
                        *(index[None, part], losses, y[slots][None]),
                    )
                    forward = NetworkPass(
                        logits,
                        residual,
                        (),
                        (),
                        outputs,
                        points.tensors,
                        points.layers,
                    )
                    with _unsharded(self._model):
                        penalty = methods.penalise(seen, forward)
                    extra = penalty.values.sum()
                    extra = extra + (logits * penalty.logits.detach()).sum()
                    if penalty.hidden is not None:
                        pairs = zip(forward.hidden, penalty.hidden)
                        extra = extra + sum((h * d.detach()).sum() for h, d in pairs)
                    total = total + extra / len(batches)
                    passes = len(batches) * accelerator.num_processes
                    objective += penalty.values.detach()[0] / passes
                accelerator.backward(total)
        # Every process has those of the whole step.
        if values is not None:
            objective += values[0] / accelerator.num_processes
        if term is not None:
            objective += term.values[0] / accelerator.num_processes
        return objective

    def _forward(self, batch: Any) -> tuple[list[Tensor], Points]:
        """Logits of all networks, in float32, and points within their graph."""
        with self._accelerator.autocast():
            outputs, points = self._model(batch)
        return [logits.float() for logits in outputs], points

    def _losses(
        self, logits: Tensor, slots: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses of a pass and their derivatives in its logits."""
        shifted = self._methods.shifted(logits.detach(), slots)
        return cross_entropy(shifted, y[slots][None])

    def _outputs_alone(
        self, batches: list[Any], y: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Losses and logits of all slots, in passes without gradients."""
        losses, logits = [], []
        with torch.no_grad(), buffers_kept(self._model):
            for number, (part, batch) in enumerate(zip(self._parts, batches)):
                self._set_seed(number)
                outputs, _ = self._forward(batch)
                slots = torch.from_numpy(part).to(y.device)
                logits.append(torch.stack(outputs, 1)[None])
                losses.append(self._losses(logits[-1], slots, y)[0])
        return self._of_step(losses, logits)

    def _of_step(
        self, losses: list[Tensor], logits: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Losses (1, R, M) and logits of a step; the latter only for an objective."""
        asked = self._methods.objective is not None
        return self._gathered(losses), self._gathered(logits) if asked else None

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        """Values of all slots of a step, out of those of each process, (1, R, ...)."""
        local = torch.cat(parts, 1)[0][self._position].contiguous()
        world = self._accelerator.num_processes
        every = self._accelerator.gather(local) if world > 1 else local
        # Process by process; slots were dealt out in turn.
        by_process = every.view(world, -1, *every.shape[1:])
        by_slot = by_process.transpose(0, 1).flatten(0, 1)
        return by_slot[: self._methods.n_slots][None]

    def _looks(self) -> bool:
        on_cpu = self._accelerator.device.type == "cpu"
        return on_cpu or self.step % _STEPS_PER_LOOK == 0

    def _check_objective(self) -> None:
        if bool(torch.isfinite(self._objective).all()):
            return
        where = f"in step {self.step + 1} (epoch {self.epoch + 1}){self._describe}"
        if self.step == 0:
            raise DivergenceError(
                f"The training objective is not finite {where}, before any weight has "
                "been changed: look for values of items that are not finite or very "
                "large once they are prepared and augmented, or choose "
                "precision='float32'."
            )
        raise self._divergence(f"The training objective is no longer finite {where}")

    def _check_weights(self) -> None:
        """Refuse weights, or running statistics, that a step has ruined."""
        own = (*self._model.parameters(), *self._finite_buffers)
        finite = torch.stack([_shard(value).isfinite().all() for value in own]).all()
        lost = self._accelerator.reduce((~finite).float(), reduction="sum")
        if bool(lost):
            raise self._divergence(
                "A weight, or a running statistic, is no longer finite after step "
                f"{self.step} (epoch {-(-self.step // self._steps_per_epoch)})"
                f"{self._describe}"
            )

    def _check_outputs(self, batch: Any) -> None:
        """Refuse finite weights whose outputs are not, after the last step of all."""
        self._model.eval()
        with torch.no_grad():
            outputs, _ = self._forward(to_device(batch, self._accelerator.device))
        lost = torch.stack([~out.isfinite().all() for out in outputs]).any().float()
        if bool(self._accelerator.reduce(lost, reduction="sum")):
            raise self._divergence(
                "The outputs of the network are not finite after the last step, a "
                f"weight of which is too large{self._describe}"
            )

    def _divergence(self, what: str) -> DivergenceError:
        kept = ""
        if self._checkpoints is not None:
            kept = f" The last good checkpoint is in {str(self._checkpoints.folder)!r}."
        return DivergenceError(
            f"{what}: lower learning_rate (now {self._recipe.learning_rate:g}), set "
            f"clip_norm, or raise warmup.{kept}"
        )

    def _end_epoch(self, batch: Any) -> None:
        self._check_objective()
        self._check_weights()
        if self._accelerator.num_processes > 1:
            # Each process has seen its own rows, and keeps its own running statistics.
            for buffer in self._model.buffers():
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, 0)
        total = self._accelerator.reduce(self._objective, reduction="sum")
        losses = (total / self._steps_per_epoch).double().cpu().numpy()
        self._objective.zero_()
        observed = self._methods.end_epoch(())
        self._stopped = bool(self.tracker.update(self.epoch, losses, observed))
        self.done = self._stopped or self.epoch == self._recipe.max_iter
        if self.done:
            self._check_outputs(batch)
        self._save()

    def _checkpoint_within_epoch(self) -> None:
        every = self._recipe.checkpoint_every
        if every is None or self.step % every or not self.step % self._steps_per_epoch:
            return
        self._check_objective()
        self._check_weights()
        self._save()

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors, header = self._state()
        if self._accelerator.is_main_process:
            self._checkpoints.save(self.step, tensors, header, done=self.done)
        self._accelerator.wait_for_everyone()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and header of a checkpoint.

        Of a run that is over and cannot be extended, that is the networks that were
        kept; else all that the next step needs.
        """
        model, kept = self.stack.state(), self.tracker.result()
        best = kept.state if isinstance(kept, KeptNetworks) else model
        goes_on = not self.done or (
            self._checkpoints is not None
            and self._checkpoints.extensible
            and not self._stopped
        )
        tensors = {f"model.{k}": v for k, v in (model if goes_on else best).items()}
        header: dict[str, Any] = {
            "step": self.step,
            "stopped": self._stopped,
            "seed": self._seed,
            "rule": snapshot(self._methods.weighting, "rule", tensors),
            "penalty": snapshot(self._methods.penalty, "penalty", tensors),
            "tracker": snapshot(self.tracker.state(), "tracker", tensors),
            "objective": snapshot(self._objective, "objective", tensors),
        }
        if self._methods.objective is not None:
            state = snapshot(self._methods.objective, "method_objective", tensors)
            header["method_objective"] = state
        if not goes_on:
            return tensors, header
        own = get_optimizer_state_dict(self._model, self._optimizer.optimizer)
        moments = {
            name: {key: _whole_copy(value) for key, value in values.items()}
            for name, values in own["state"].items()
        }
        header["optimizer"] = snapshot(moments, "optimizer", tensors)
        if best is not model:
            # Frozen parts are the same, and so is all in the best epoch.
            other = {k: v for k, v in best.items() if not torch.equal(v, model[k])}
            header["kept"] = snapshot(other, "kept", tensors)
        if self._accelerator.scaler is not None:
            header["scaler"] = self._accelerator.scaler.state_dict()
        return tensors, header

    def _resume(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        UnusableCheckpointError
            If it is no state of this run; the training is then of no use.
        """
        try:
            self._check_state(tensors, header)
            self._set_state(tensors, header)
        except (MemoryError, OSError, UnusableCheckpointError):
            raise
        except Exception as error:
            # Whatever a file holds that a run would never write.
            if is_out_of_memory(error):
                raise
            raise UnusableCheckpointError(
                f"a checkpoint holds no state of this run ({error!r})"
            ) from error

    def _check_state(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        step = header["step"]
        whole = type(step) is int and 0 < step <= self._n_steps
        if not whole or header["seed"] != self._seed:
            raise UnusableCheckpointError("a checkpoint is of another run")
        own = get_model_state_dict(self._model)
        self._check_shapes({name: tensors.get(f"model.{name}") for name in own})
        if "optimizer" not in header and not (
            header["stopped"] or step == self._n_steps
        ):
            raise UnusableCheckpointError("a checkpoint is of a shorter run")

    def _check_shapes(self, found: dict[str, Any]) -> None:
        """Refuse tensors that are none of the networks', or of other shapes."""
        own = get_model_state_dict(self._model)
        for name, value in found.items():
            wanted = own.get(name)
            if not (isinstance(value, Tensor) and isinstance(wanted, Tensor)) or (
                (value.shape, value.dtype) != (wanted.shape, wanted.dtype)
            ):
                raise UnusableCheckpointError("a checkpoint is of another network")

    def _set_state(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        device = self._accelerator.device
        prefix = "model."
        state = {
            k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)
        }
        # A copy: of replicas it changes the names in it.
        set_model_state_dict(self._model, dict(state), options=_WHOLE)
        if "optimizer" in header:
            optimizer = self._optimizer.optimizer
            own = get_optimizer_state_dict(self._model, optimizer)
            found = restore(own["state"], header["optimizer"], tensors, device)
            if not own["state"].keys() >= found.keys() or bool(own["state"]) > bool(
                found
            ):
                raise UnusableCheckpointError("a checkpoint is of another optimizer")
            own["state"] = found
            set_optimizer_state_dict(self._model, optimizer, own, options=_USED)
        methods = self._methods
        methods.weighting = restore(methods.weighting, header["rule"], tensors, device)
        methods.penalty = restore(methods.penalty, header["penalty"], tensors, device)
        if methods.objective is not None:
            methods.objective = restore(
                methods.objective, header["method_objective"], tensors, device
            )
        self._objective = restore(self._objective, header["objective"], tensors, device)
        kept = None
        if "kept" in header:
            cpu = torch.device("cpu")
            other = restore({}, header["kept"], tensors, cpu)
            self._check_shapes(other)
            kept = KeptNetworks({**state, **other})
        if "scaler" in header and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(header["scaler"])
        tracker = restore(self.tracker.state(), header["tracker"], tensors, device)
        self.tracker.resume(tracker, kept)
        self.step, self._stopped = header["step"], bool(header["stopped"])
        self.done = self._stopped or self.step == self._n_steps


def _optimizer(
    members: Sequence[Network], heads: Sequence[Head], recipe: TrainConfig
) -> torch.optim.Optimizer:
    """Return the optimizer; biases and the scales of normalisations do not decay."""
    groups = []
    for number, (member, head) in enumerate(zip(members, heads, strict=True)):
        decay = head.weight_decay
        decay = recipe.weight_decay if decay is None else decay
        trained = [p for p in member.parameters() if p.requires_grad]
        for own, rate in (
            ([p for p in trained if p.ndim > 1], decay),
            ([p for p in trained if p.ndim <= 1], 0.0),
        ):
            if own:
                groups.append({"params": own, "weight_decay": rate, "member": number})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum)
    betas = (recipe.momentum, 0.999)
    return torch.optim.AdamW(groups, recipe.learning_rate, betas)


def _has_unused(network: Network, batch: Any) -> bool:
    """Whether some of the parameters do not matter to the logits."""
    network.eval()
    network(batch).sum().backward()
    unused = [p for p in network.parameters() if p.requires_grad and p.grad is None]
    network.zero_grad(set_to_none=True)
    return bool(unused)


def _synchronised(accelerator: Any, model: torch.nn.Module, last: bool) -> Any:
    """Exchange gradients between processes after the last pass of a step only."""
    if last:
        return ExitStack()
    return accelerator.no_sync(model)


@contextmanager
def _unsharded(model: torch.nn.Module) -> Iterator[None]:
    """Leave weights whole after a backward pass that is differentiated in its turn."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_backward(False)
    model.set_is_last_backward(False)
    try:
        yield
    finally:
        model.set_reshard_after_backward(True)
        model.set_is_last_backward(True)


def _shard(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value.detach()


def _whole_copy(value: Any) -> Any:
    """Return a tensor on the CPU, put together from the processes' shards of it."""
    if not isinstance(value, Tensor):
        return value
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu().clone()
