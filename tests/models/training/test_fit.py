"""Fitting: what a generation holds, that seeds decide it, and that rows are drawn as asked."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.neighbours import NeighbourConfig
from models.generator.files import load_generator
from models.reasoning.item_text import item_text
from models.reasoning.minilm import EncoderFolderInvalid, MiniLmEncoder
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.artifact import EncoderRecord
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig
from models.serving.neighbours_file import neighbours_of_generation
from models.training.compute import ComputeUnavailable
from models.training.example_tensors import ExampleTensors, InstructionDropout, newest
from models.training.examples import NO_TEXT, Example, Examples
from models.training.fit import (
    STAGES,
    FitConfig,
    FitProgress,
    GenerationManifest,
    Log,
    NothingToLearn,
    fit_generation,
)
from models.training.instructions import ServedWindows
from models.training.neighbour_table import neighbours_of
from models.training.training_loop import TrainingConfig
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, item_key_of
from schemas.impressions import HistoryFeatures
from tests.models.reasoning.tiny_encoder import write_encoder_folder

START_MS = 1_783_000_000_000
MINUTE_MS = 60_000
WORDS = ("umbrella", "kettle", "tent", "lamp", "guitar", "pillow")
ITEMS = [
    ItemUpsert(item_id=f"{word}-{n}", title=f"{word} model {n}", category=f"Shop > {word}s")
    for word in WORDS
    for n in range(5)
]
HIGH_VALUE = (ActionType.SEARCH, ActionType.ORDER)
WINDOWS = ServedWindows(
    start_of=lambda _, at_ms: at_ms // (5 * MINUTE_MS) * 5 * MINUTE_MS,
    window_ms=5 * MINUTE_MS,
    grace_ms=1_000,
    high_value_of=lambda actions: [a for a in actions if a.action in HIGH_VALUE],
)
CONFIG = FitConfig(
    features="text",
    codebooks=ResidualKMeansConfig(codes=8),
    training=TrainingConfig(steps=4, batch=32, warmup_steps=1),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits, and on a busy machine it waits long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def actions(users: int = 12) -> list[UserAction]:
    """Every user searches for a word and a window later clicks two things of that kind."""
    rng = Random(0)
    log = []
    for user in range(users):
        for session in range(4):
            word, at_ms = rng.choice(WORDS), START_MS + session * 86_400_000
            chosen = rng.sample(range(5), 2)
            log.append(act(user, ActionType.SEARCH, at_ms, word))
            log += [
                act(user, ActionType.CLICK, at_ms + (7 + place) * MINUTE_MS, f"{word}-{number}")
                for place, number in enumerate(chosen)
            ]
    return log


def act(user: int, kind: ActionType, at_ms: int, what: str) -> UserAction:
    words = kind is ActionType.SEARCH
    return UserAction(
        event_id=f"{user}-{at_ms}",
        user_id=f"user-{user}",
        action=kind,
        event_time_ms=at_ms,
        item_id=None if words else what,
        query=what if words else None,
    )


def log(done: Sequence[UserAction]) -> Log:
    return Log(items=ITEMS, actions=done, windows=WINDOWS, scenarios=["home", "search"])


def fit(home: Path, config: FitConfig = CONFIG) -> tuple[GenerationManifest, list[FitProgress]]:
    told: list[FitProgress] = []
    manifest = fit_generation(
        log(actions()), home=home, generation=3, created_ms=7, config=config, progress=told.append
    )
    return manifest, told


def test_a_generation_is_one_complete_folder(tmp_path: Path) -> None:
    manifest, told = fit(tmp_path)
    folder = tmp_path / "generations" / "3"
    names = {path.name for path in folder.iterdir()}
    assert {"manifest.json", "text_encoder.json", "codebooks.safetensors", "generator.json"} < names
    assert [path.name for path in folder.parent.iterdir()] == ["3"]
    encoder = CharacterEncoder.load(folder)
    assert manifest.encoder == EncoderRecord(kind="builtin", encoder_id=encoder.encoder_id)
    assert manifest.dim == encoder.dim
    assert Codebooks.load(folder).codes == load_generator(folder).config.codes == 8
    assert load_generator(folder).config.content_dim == encoder.dim
    assert list(dict.fromkeys(progress.stage for progress in told)) == list(STAGES)
    assert told[-1].done == told[-1].total == 4
    assert manifest.rows == manifest.rows_with_instruction == 96


def test_a_weight_above_0_gives_the_generation_a_table_of_its_log(tmp_path: Path) -> None:
    manifest, _ = fit(tmp_path / "off")
    assert manifest.neighbours is None
    assert neighbours_of_generation(tmp_path / "off" / "generations" / "3") is None
    config = replace(CONFIG, neighbours=NeighbourConfig(weight=0.5, kept=4))
    manifest, _ = fit(tmp_path / "on", config)
    table = neighbours_of_generation(tmp_path / "on" / "generations" / "3")
    wanted = neighbours_of(actions(), config.neighbours)
    assert table is not None
    assert wanted is not None
    assert manifest.neighbours is not None
    assert manifest.neighbours.pairs == len(table.places_E) == len(wanted.places_E)
    assert table.config.weight == 0.5
    assert torch.equal(table.weights_E, wanted.weights_E)
    assert torch.equal(table.keys_T, wanted.keys_T)


def test_a_generation_of_another_encoder_takes_it_along(tmp_path: Path) -> None:
    source = write_encoder_folder(tmp_path / "tiny")
    manifest, _ = fit(tmp_path, replace(CONFIG, encoder=str(source)))
    folder = tmp_path / "generations" / "3"
    encoder = MiniLmEncoder.load(folder / "text_encoder")
    assert manifest.encoder == EncoderRecord(kind="folder", encoder_id=encoder.encoder_id)
    assert manifest.dim == encoder.dim == load_generator(folder).config.content_dim
    assert not (folder / "text_encoder.json").exists()
    vectors = encoder.encode([item_text(item) for item in ITEMS])
    assert len(np.unique(Codebooks.load(folder).assign(vectors), axis=0)) > 1
    with pytest.raises(EncoderFolderInvalid, match="no config"):
        fit(tmp_path / "b", replace(CONFIG, encoder=str(tmp_path / "nowhere")))


def test_equal_seeds_give_equal_weights_and_leave_torchs_own_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    weights = []
    for home, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = replace(CONFIG, training=replace(CONFIG.training, seed=seed))
        fit(tmp_path / home, config)
        folder = tmp_path / home / "generations" / "3"
        weights.append(load_generator(folder).head_weight_LVD)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_loss_falls(tmp_path: Path) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, steps=24))
    _, told = fit(tmp_path, config)
    losses = [float(p.note.rpartition(" ")[2]) for p in told if p.stage == "generator"]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_a_fit_that_cannot_be_done_leaves_nothing(tmp_path: Path) -> None:
    silent = [action for action in actions() if action.action is ActionType.SEARCH]
    with pytest.raises(NothingToLearn, match="without a choice of an item"):
        fit_generation(log(silent), home=tmp_path, generation=1, created_ms=0, config=CONFIG)
    with pytest.raises(NothingToLearn, match="wanted a catalogue"):
        fit_generation(
            replace(log([]), items=[]), home=tmp_path, generation=1, created_ms=0, config=CONFIG
        )
    assert list((tmp_path / "generations").iterdir()) == []


def test_a_generation_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "generations" / "3").mkdir(parents=True)
    with pytest.raises(NothingToLearn, match="not fitted yet"):
        fit(tmp_path)


@cache
def index() -> ItemIndex:
    count = len(ITEMS)
    return ItemIndex.build(
        keys=torch.tensor([item_key_of(item.item_id) for item in ITEMS]),
        codes=torch.arange(count).unsqueeze(1).expand(-1, 2) % 7,
        content=torch.zeros(count, 4),
    )


def example(history: int, text: int = 0, older: int = 1, target: str = "tent-0") -> Example:
    keys = [item_key_of(item.item_id) for item in ITEMS[:history]]
    return Example(
        user_id="user",
        at_ms=START_MS,
        scenario="home",
        target_key=item_key_of(target),
        weight=1.0,
        history=HistoryFeatures(
            item_keys=keys, action_codes=[2] * history, gap_buckets=list(range(history))
        ),
        trigger_key=None,
        text=text,
        older_text=older,
    )


def tensors(rows: Sequence[Example]) -> ExampleTensors:
    vectors = np.array([[0.1, 0, 0, 0], [0, 0.2, 0, 0]], dtype=np.float32)
    return ExampleTensors.build(rows, vectors, index(), ["home"])


def test_rows_of_unknown_items_are_left_out() -> None:
    rows = [example(2), example(3, target="no such item"), example(0)]
    assert len(tensors(rows)) == 2


def test_instructions_are_drawn_in_the_asked_shares_and_as_fp16() -> None:
    built = tensors([example(1)])
    numbers = torch.zeros(4_000, dtype=torch.int64)
    drawn = built.draw(numbers, InstructionDropout(), torch.Generator().manual_seed(0))
    own = (drawn.instruction_BC[:, 0] != 0).float().mean().item()
    older = (drawn.instruction_BC[:, 1] != 0).float().mean().item()
    default = (~drawn.has_instruction_B).float().mean().item()
    assert (own, older, default) == pytest.approx((0.5, 0.2, 0.3), abs=0.03)
    assert drawn.instruction_BC.max().item() == float(np.float16(0.2))


def test_a_row_without_a_text_is_trained_with_the_default() -> None:
    built = tensors([example(1, text=NO_TEXT, older=NO_TEXT)] * 50)
    drawn = built.draw(torch.arange(50), InstructionDropout(), torch.Generator().manual_seed(0))
    assert not drawn.has_instruction_B.any()


@pytest.mark.parametrize("limit", [0, 1, 3, 50])
def test_newest_keeps_the_last_positions_of_every_row(limit: int) -> None:
    built = tensors([example(0), example(2), example(5)])
    cut = newest(built.conditions, limit)
    for number, length in enumerate((0, 2, 5)):
        real = cut.rows_BS[number] != UNKNOWN
        expected = list(range(length))[max(0, length - limit) :]
        assert cut.gaps_BS[number][real].tolist() == expected
        assert real.tolist() == sorted(real.tolist(), reverse=True)


def test_a_sample_keeps_every_row_with_its_own_text() -> None:
    rows = [example(1, text=number, older=19 - number) for number in range(20)]
    whole = Examples(rows=rows, texts=[f"text {number}" for number in range(20)])
    part = whole.sample(4, Random(1))
    assert len(part.rows) == 4
    assert len(part.texts) == 8
    for row in part.rows:
        total = int(part.texts[row.text].split()[1]) + int(part.texts[row.older_text].split()[1])
        assert total == 19


def test_what_cannot_be_computed_here_is_refused_before_anything_is_prepared(
    tmp_path: Path,
) -> None:
    told: list[FitProgress] = []
    config = replace(CONFIG, training=replace(CONFIG.training, compile=True))  # on the CPU
    with pytest.raises(ComputeUnavailable, match=r"training\.compile: found true on cpu"):
        fit_generation(
            Log(items=ITEMS, actions=actions(), windows=WINDOWS, scenarios=["home"]),
            home=tmp_path,
            generation=1,
            created_ms=START_MS,
            config=config,
            progress=told.append,
        )
    assert not told
