"""The offline training loop: AdamW, linear warm-up, cosine decay, a fixed seed, no clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from models.decoding.item_index import ItemIndex
from models.devices import moved
from models.generator.batch import Batch
from models.generator.generator import Generator
from models.generator.losses import GenerationLoss, LossWeights, generation_loss
from models.training.checkpoint import (
    Checkpointing,
    Position,
    load_position,
    run_hash,
    save_position,
)
from models.training.compute import Compute, Device, Precision, compute_of
from models.training.distributed import Share, this_share
from models.training.example_tensors import ExampleTensors, InstructionDropout, newest


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Steps are the budget: about 0.1 s each for `tiny` on two free cores of 2.5 GHz.

    `batch` counts the rows of a step over all processes. On the CPU a run can be repeated to the
    bit: that is the default, wherever a card is.
    """

    steps: int = 240
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    max_gradient_norm: float = 1.0
    seed: int = 0
    device: Device = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    # Step by step in turn: everything, nothing, a little, nothing. New users exist, a step without
    # history costs half, and only there do words have to say everything (docs/experiments.md).
    history_limits: tuple[int, ...] = (1_000, 0, 6, 0)
    instructions: InstructionDropout = field(default_factory=InstructionDropout)
    weights: LossWeights = field(default_factory=LossWeights)

    def compute(self) -> Compute:
        """Returns where and how this process computes. Raises `ComputeUnavailable`."""
        return compute_of(self.device, self.precision, compiled=self.compile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step done: the losses are that step's; both cross-entropies in nats.

    `rows` over all processes; `gradient_norm` before it is clipped.
    """

    step: int
    steps: int
    epoch: int
    rows: int
    learning_rate: float
    gradient_norm: float
    loss: float
    code_ce: float
    item_ce: float
    query_to_item: float = 0.0
    balance: float = 0.0


ProgressCallback = Callable[[Progress], None]


def train(
    generator: Generator,
    examples: ExampleTensors,
    index: ItemIndex,
    config: TrainingConfig,
    progress: ProgressCallback | None = None,
    checkpointing: Checkpointing | None = None,
) -> list[Progress]:
    """Trains `generator` in place for `config.steps` steps and returns what happened in each.

    With `checkpointing` it goes on where a run was cut, on the CPU to the same weights. Under
    torchrun the processes share each step; the first of them writes checkpoints. The weights end
    where they began, on the CPU. Raises `CheckpointOfAnotherRun`, `ComputeUnavailable`.
    """
    run = _Run(generator, examples, index, config)
    belongs_to = run.hash() if checkpointing else ""
    if checkpointing:
        run.resume(checkpointing, belongs_to)
    generator.train()
    while run.position.step < config.steps:
        run.step()
        step = run.position.step
        if progress is not None:  # first: what a kill between both repeats is taken back
            progress(run.told(step))
        if checkpointing and (step % checkpointing.every == 0 or step == config.steps):
            run.save(checkpointing, belongs_to)
    generator.eval().cpu()
    return [run.told(step) for step in range(1, config.steps + 1)]


class _Run:
    """The state of a run, and the step that moves it."""

    def __init__(
        self,
        generator: Generator,
        examples: ExampleTensors,
        index: ItemIndex,
        config: TrainingConfig,
    ) -> None:
        self._generator = generator
        self._examples = examples
        self._config = config
        self._compute = config.compute()
        self._compute.prepare(generator)
        self._index = moved(index, self._compute.device)
        self._share: Share = this_share()
        self._rng = torch.Generator().manual_seed(config.seed)
        self._optimizer = torch.optim.AdamW(
            generator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        nothing = torch.empty(0, dtype=torch.int64)
        self.position = Position(step=0, epoch=0, order=nothing, losses=[])

    def step(self) -> None:
        """Takes the next rows, and one step downhill."""
        config, at = self._config, self.position
        if len(at.order) == 0:
            at.order = torch.randperm(len(self._examples), generator=self._rng)
            at.epoch += 1
        numbers, at.order = at.order[: config.batch], at.order[config.batch :]
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(at.step, config)
        at.step += 1
        limit = config.history_limits[at.step % len(config.history_limits)]
        batch = newest(self._examples.draw(numbers, config.instructions, self._rng), limit)
        places, share = self._share.places(len(numbers))
        found = self._losses(batch.select(places), numbers[places])
        self._optimizer.zero_grad(set_to_none=True)
        (found.loss * share).backward()
        self._share.add_up_gradients(self._generator)
        norm = torch.nn.utils.clip_grad_norm_(
            self._generator.parameters(), config.max_gradient_norm
        )
        self._optimizer.step()
        # In one: a card is waited for once.
        parts = [part.detach().to(norm.device) for part in found]
        *losses, gradient_norm = torch.stack([*parts, norm]).tolist()
        losses = self._share.add_up(losses, share)
        at.losses.append([at.epoch, len(numbers), gradient_norm, *losses])

    def _losses(self, batch: Batch, numbers: torch.Tensor) -> GenerationLoss:
        """Returns the losses of rows `numbers`, whose drawn conditions `batch` holds."""
        device = self._compute.device
        with self._compute.autocast():
            return generation_loss(
                self._generator,
                moved(batch, device),
                self._examples.target_R[numbers].to(device),
                self._examples.weight_R[numbers].to(device),
                self._index,
                weights=self._config.weights,
            )

    def told(self, step: int) -> Progress:
        """Returns what happened in a step that was done."""
        epoch, rows, gradient_norm, *losses = self.position.losses[step - 1]
        loss, code_ce, item_ce, query_to_item, balance = losses
        return Progress(
            step=step,
            steps=self._config.steps,
            epoch=int(epoch),
            rows=int(rows),
            learning_rate=self._config.learning_rate * _rate(step - 1, self._config),
            gradient_norm=gradient_norm,
            loss=loss,
            code_ce=code_ce,
            item_ce=item_ce,
            query_to_item=query_to_item,
            balance=balance,
        )

    def hash(self) -> str:
        """Returns what a checkpoint must belong to: sizes, configuration, rows, first weights.

        The device is the one that was found: another would not go on to the same weights.
        """
        rows = self._examples
        config = f"{replace(self._config, device='auto')} on {self._compute.device.type}"
        data = [rows.target_R, rows.weight_R, rows.text_R, rows.older_R, rows.texts_TC]
        data += [rows.conditions.rows_BS, rows.conditions.trigger_B, self._index.codes_NL]
        data += [self._index.content_NC.float(), self._generator.head_weight_LVD]
        return run_hash(f"{self._generator.config} {config}", data)

    def resume(self, checkpointing: Checkpointing, belongs_to: str) -> None:
        """Goes on from a checkpoint where there is one."""
        found = load_position(
            checkpointing.path, belongs_to, self._generator, self._optimizer, self._rng
        )
        if found is not None:
            self.position = found

    def save(self, checkpointing: Checkpointing, belongs_to: str) -> None:
        """Writes the checkpoint, one process of all."""
        if self._share.rank == 0:
            save_position(
                checkpointing.path,
                belongs_to,
                self.position,
                self._generator,
                self._optimizer,
                self._rng,
            )


def _rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to 0; `step` counts from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
