"""A small training run, for tests that cut it and for processes that share it.

Run as a module under torchrun it trains and writes the weights' file: `small_run OUT.safetensors`.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

from models.generator.generator import Generator
from models.tensor_file import write_tensors
from models.training.checkpoint import Checkpointing
from models.training.distributed import this_share
from models.training.example_tensors import ExampleTensors
from models.training.examples import Example
from models.training.training_loop import Progress, ProgressCallback, TrainingConfig, train
from tests.models.generator.small_policy import (
    CONTENT_DIM,
    SCENARIOS,
    request,
    small_config,
    small_index,
)

INDEX = small_index()
CONFIG = TrainingConfig(
    steps=10, batch=12, warmup_steps=2, learning_rate=1e-2, history_limits=(9, 0, 2)
)
ROWS = 31  # not a multiple of the batch: the last one of an epoch has 7 rows, an odd share


class Cut(Exception):
    """The end of a process, as far as the loop can tell."""


def examples() -> ExampleTensors:
    rng = torch.Generator().manual_seed(0)
    rows = [
        Example(
            user_id=f"user-{n}",
            at_ms=0,
            scenario=SCENARIOS[n % 3],
            target_key=int(INDEX.keys_N[n]),
            weight=[1.0, 1.2, 2.0][n % 3],
            history=request(INDEX, n % 8, seed=n).history,
            trigger_key=int(INDEX.keys_N[n + 1]) if n % 4 == 0 else None,
            text=n % 5,
            older_text=(n + 1) % 5,
        )
        for n in range(ROWS)
    ]
    vectors = torch.randn(5, CONTENT_DIM, generator=rng).numpy()
    return ExampleTensors.build(rows, vectors, INDEX, SCENARIOS)


def trained(
    config: TrainingConfig = CONFIG,
    *,
    dropout: float = 0.0,
    progress: ProgressCallback | None = None,
    checkpointing: Checkpointing | None = None,
) -> tuple[dict[str, torch.Tensor], list[Progress]]:
    """Returns the weights after all steps, and the steps."""
    torch.manual_seed(1)
    model = Generator(replace(small_config(), dropout=dropout))
    steps = train(model, examples(), INDEX, config, progress, checkpointing)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    weights, steps = trained()
    if this_share().rank == 0:
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        arrays["losses"] = torch.tensor([step.loss for step in steps]).numpy()
        write_tensors(Path(sys.argv[1]), arrays)
    torch.distributed.destroy_process_group()
