"""`oxygenrec train`: a folder to a generation, one file an experiment, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agents.cli import app
from agents.cli_train import TrainingRefused
from agents.exit_codes import ExitCode, exit_code_of
from agents.text_encoders import generation_encoder
from models.generator.files import load_generator
from models.reasoning.minilm import MiniLmEncoder
from models.serving.neighbours_file import neighbours_of_generation
from models.training.experiment import ExperimentInvalid, read_experiment
from tests.agents.test_cli_semantic_ids import TITLES, items, write
from tests.models.reasoning.tiny_encoder import write_encoder_folder

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
max_rows = 200
[sizes]
retrieved = 2
recent = 2
[codebooks]
codes = 8
[alignment]
hidden = 8
steps = 5
[examples]
recent = 8
[neighbours]
weight = 0.4
[training]
steps = 8
batch = 16
warmup_steps = 2
[training.instructions]
default = 0.5
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "items.parquet", items(TITLES))
    chosen = [
        {"user_id": user, "item_id": (user + 8 * step) % len(TITLES), "pos": step, "day": 15_000}
        for user in range(30)
        for step in range(14)
    ]
    write(folder / "interactions.parquet", chosen)
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


def train(home: Path, *arguments: object) -> Result:
    command = ["train", *map(str, arguments)]
    return CliRunner().invoke(app, command, env={"OXYGENREC_HOME": str(home)})


def refused(result: Result) -> ExitCode:
    assert isinstance(result.exception, TrainingRefused)
    return exit_code_of(result.exception)


def test_an_encoder_of_the_command_line_becomes_the_generations(
    data: Path, experiment: Path, tmp_path: Path
) -> None:
    source = write_encoder_folder(tmp_path / "tiny")
    arguments = ("--data", data, "--config", experiment, "--encoder")
    shown = train(tmp_path, *arguments, source)
    assert shown.exit_code == 0, shown.output
    folder = tmp_path / "generations" / "1"
    facts = generation_encoder(folder)
    assert facts.needs_torch
    assert facts.encoder is not None
    assert facts.encoder.encoder_id == MiniLmEncoder.load(folder / "text_encoder").encoder_id
    assert refused(train(tmp_path / "other", *arguments, tmp_path / "nowhere")) is ExitCode.USAGE


def test_a_folder_becomes_the_generation_that_up_looks_for(
    data: Path, experiment: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shown = train(home, "--data", data, "--config", experiment, "--steps", 6)
    assert shown.exit_code == 0, shown.output
    folder = home / "generations" / "1"
    config = load_generator(folder).config
    assert (config.codes, config.recent, config.retrieved) == (8, 2, 2)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["steps"] == 6
    assert manifest["rows"] == 200
    table = neighbours_of_generation(folder)
    assert table is not None
    assert (table.config.weight, manifest["neighbours"]["items"]) == (0.4, len(table.keys_T))
    assert (folder.parent / "1.origin").read_text() == f"data of {data.resolve()}"
    lines = list(map(json.loads, (home / "training" / "1.jsonl").read_text().splitlines()))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert any(line["query_to_item"] for line in lines)  # 0 in a batch of fewer than two queries
    assert len(list((home / "training" / "tensorboard" / "1").iterdir())) == 1
    assert not (home / "training" / "1.safetensors").exists()
    again = train(home, "--data", data, "--config", experiment)
    assert refused(again) is ExitCode.USAGE  # a generation is never overwritten


@pytest.mark.slow
def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(
    data: Path, experiment: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--data", str(data), "--config", str(experiment)]
    arguments += ["--steps", "60", "--checkpoint-every", "3"]
    command = [sys.executable, "-m", "agents.cli", *arguments]

    def environment(home: Path) -> dict[str, str]:
        return {**os.environ, "OXYGENREC_HOME": str(home), "OMP_NUM_THREADS": "1"}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command, cwd=ROOT, env=environment(whole), check=True, timeout=100)
    process = subprocess.Popen(command, cwd=ROOT, env=environment(killed))
    checkpoint = killed / "training" / "1.safetensors"
    deadline_s = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert checkpoint.is_file()
    assert not (killed / "generations" / "1").exists()
    subprocess.run(command, cwd=ROOT, env=environment(killed), check=True, timeout=100)
    weights = [
        (home / "generations" / "1" / "generator.safetensors").read_bytes()
        for home in (whole, killed)
    ]
    assert weights[0] == weights[1]
    losses = [(home / "training" / "1.jsonl").read_text() for home in (whole, killed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("text", "key", "wanted"),
    [
        ("[training]\nstep = 3", "training.step", "steps"),
        ("presett = 'tiny'", "presett", "preset"),
        ("[training]\nsteps = 'many'", "training.steps", "int"),
        ("[training.weights.q2i]\nvarianze = 1", "training.weights.q2i.varianze", "variance"),
        ("[training]\ndevice = 'tpu'", "training.device", "auto, cpu, cuda"),
        ("[training]\nprecision = 'fp16'", "training.precision", "float32, bf16"),
        ("[training]\ncompile = 1", "training.compile", "bool"),
        ("= 3", "file", "TOML"),
    ],
)
def test_what_is_no_experiment_is_named(tmp_path: Path, text: str, key: str, wanted: str) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    with pytest.raises(ExperimentInvalid, match=wanted) as caught:
        read_experiment(path)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "text",
    [
        "preset = '9B'",
        "[sizes]\nheadz = 3",
        "[neighbours]\nweight = -1.0",
        "[training]\ndevice = 'cpu'\ncompile = true",
    ],
)
def test_what_cannot_be_trained_ends_with_usage(data: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    assert refused(train(tmp_path, "--data", data, "--config", path)) is ExitCode.USAGE
