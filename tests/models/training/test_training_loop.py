"""A run that was cut ends in the same weights; processes that share a step make the same step."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.tensor_file import read_tensors
from models.training.checkpoint import Checkpointing, CheckpointOfAnotherRun
from models.training.distributed import Share
from models.training.training_loop import Progress
from tests.models.generator.closeness import assert_close
from tests.models.training.small_run import CONFIG, ROWS, Cut, trained

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits, and on a busy machine it waits long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("cut", [1, 4, 5, 9])
def test_a_run_that_was_cut_ends_in_the_same_weights(tmp_path: Path, cut: int) -> None:
    """Checkpoints after steps 2, 4, ..; epochs end inside; dropout draws from torch's own."""

    def progress(done: Progress) -> None:
        if done.step == cut:
            raise Cut(cut)

    whole, told = trained(dropout=0.2)
    checkpointing = Checkpointing(path=tmp_path / "run.safetensors", every=2)
    with pytest.raises(Cut):
        trained(dropout=0.2, progress=progress, checkpointing=checkpointing)
    kept = (cut - 1) // 2 * 2  # a step is told before it is kept
    assert checkpointing.path.is_file() == (kept > 0)
    redone: list[int] = []
    again, told_again = trained(
        dropout=0.2, progress=lambda done: redone.append(done.step), checkpointing=checkpointing
    )
    assert redone == list(range(kept + 1, CONFIG.steps + 1))
    assert told_again == told
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpointing = Checkpointing(path=tmp_path / "run.safetensors", every=5)
    trained(checkpointing=checkpointing)
    with pytest.raises(CheckpointOfAnotherRun, match="delete the file"):
        trained(replace(CONFIG, learning_rate=2e-3), checkpointing=checkpointing)


@pytest.mark.parametrize(("rows", "count"), [(12, 2), (7, 2), (7, 3), (1, 2)])
def test_the_shares_of_a_batch_add_up_to_it(rows: int, count: int) -> None:
    losses = torch.arange(rows).float() + 1
    total = 0.0
    for rank in range(count):
        places, weight = Share(rank=rank, count=count).places(rows)
        total += weight * float(losses[places].mean())
    assert total == pytest.approx(float(losses.mean()))


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Through torchrun and gloo, over two epochs whose last batches are odd."""
    assert ROWS % CONFIG.batch % 2 == 1
    alone, steps = trained()
    out = tmp_path / "weights.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    job = ["--nproc-per-node", "2", "-m", "tests.models.training.small_run", str(out)]
    done = subprocess.run(
        [*torchrun, *job],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    together = {name: torch.from_numpy(array) for name, array in read_tensors(out).items()}
    assert_close(together.pop("losses"), torch.tensor([step.loss for step in steps]), atol=1e-4)
    assert together.keys() == alone.keys()
    before, _ = trained(replace(CONFIG, steps=0))
    # Adam divides by the gradient's size, so rounding of a tiny gradient is a whole step of one
    # weight: the distance is measured over all, against how far training went.
    moved, apart = (
        torch.cat([(one[name] - alone[name]).flatten() for name in alone]).norm()
        for one in (before, together)
    )
    assert float(apart / moved) < 2e-3
