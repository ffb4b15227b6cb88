"""The offline training loop: AdamW, linear warm-up, cosine decay, a fixed seed, no clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from models.decoding.item_index import ItemIndex
from models.generator.generator import Generator
from models.generator.losses import generation_loss
from models.training.example_tensors import ExampleTensors, InstructionDropout, newest


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Steps are the budget: about 0.1 s each for `tiny` on two free cores of 2.5 GHz."""

    steps: int = 240
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    max_gradient_norm: float = 1.0
    seed: int = 0
    # Step by step in turn: everything, nothing, a little, nothing. New users exist, a step without
    # history costs half, and only there do words have to say everything (docs/experiments.md).
    history_limits: tuple[int, ...] = (1_000, 0, 6, 0)
    instructions: InstructionDropout = field(default_factory=InstructionDropout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step done: the losses are that step's, in nats."""

    step: int
    steps: int
    epoch: int
    loss: float
    code_ce: float
    item_ce: float


ProgressCallback = Callable[[Progress], None]


def train(
    generator: Generator,
    examples: ExampleTensors,
    index: ItemIndex,
    config: TrainingConfig,
    progress: ProgressCallback | None = None,
) -> list[Progress]:
    """Trains `generator` in place for `config.steps` steps and returns what happened in each."""
    rng = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        generator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    generator.train()
    history: list[Progress] = []
    order = torch.empty(0, dtype=torch.int64)
    epoch = 0
    for step in range(1, config.steps + 1):
        if len(order) == 0:
            order = torch.randperm(len(examples), generator=rng)
            epoch += 1
        numbers, order = order[: config.batch], order[config.batch :]
        limit = config.history_limits[step % len(config.history_limits)]
        batch = newest(examples.draw(numbers, config.instructions, rng), limit)
        target, weight = examples.target_R[numbers], examples.weight_R[numbers]
        found = generation_loss(generator, batch, target, weight, index)
        optimizer.zero_grad(set_to_none=True)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), config.max_gradient_norm)
        optimizer.step()
        schedule.step()
        history.append(
            Progress(
                step=step,
                steps=config.steps,
                epoch=epoch,
                loss=found.loss.item(),
                code_ce=found.code_ce.item(),
                item_ce=found.item_ce.item(),
            )
        )
        if progress is not None:
            progress(history[-1])
    generator.eval()
    return history


def _rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
