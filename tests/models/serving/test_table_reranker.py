"""A table re-ranks the items of the finished beams, and touches nothing that the policy is."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from models.serving.engine import GeneratorEngine
from models.serving.neighbours_file import (
    FILE_NAME,
    load_neighbours,
    neighbours_of_generation,
    save_neighbours,
)
from models.serving.policy_directory import (
    FILES,
    PolicyDirectoryInvalid,
    load_version,
    write_version,
)
from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors
from schemas.generation import GeneratedItem, GenerationRequest, GenerationResponse
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.generator.small_policy import request, small_policy

PLAIN = small_policy()
INDEX = PLAIN.index
TABLE = small_neighbours(INDEX)
RERANKED = replace(PLAIN, neighbours=TABLE)
REQUESTS = [
    request(INDEX, 20, seed=1, beams=200),
    request(INDEX, 0, seed=2, beams=200),
    request(INDEX, 3, seed=3, scenario="search", beams=200),
]


def answers(engine: GeneratorEngine, asked: list[GenerationRequest]) -> list[list[GeneratedItem]]:
    found = engine.generate(asked)
    return [answer.items for answer in found if isinstance(answer, GenerationResponse)]


def test_a_score_is_the_policys_and_the_logged_share_of_the_table() -> None:
    plain = answers(GeneratorEngine(PLAIN), REQUESTS)
    reranked = answers(GeneratorEngine(RERANKED), REQUESTS)
    moved = 0
    for asked, before, after in zip(REQUESTS, plain, reranked, strict=True):
        own = {item.item_key: item for item in before}
        assert own.keys() == {item.item_key for item in after}
        assert all(item.table_term == 0 for item in before)
        history = torch.tensor([asked.history.item_keys]).long()
        for item in after:
            share = float(TABLE.shares(history, torch.tensor([[item.item_key]])))
            floor = TABLE.config.floor
            term = TABLE.config.weight * math.log((share + floor) / (1 + floor))
            assert item.table_term == pytest.approx(term, abs=1e-5)
            assert item.score == pytest.approx(own[item.item_key].score + term, abs=1e-4)
        scores = [item.score for item in after]
        assert scores == sorted(scores, reverse=True)
        moved += [item.item_key for item in before] != [item.item_key for item in after]
    assert moved == 2  # without a history the order is the policy's own


def test_no_log_prob_knows_the_table() -> None:
    plain = answers(GeneratorEngine(PLAIN), REQUESTS)
    reranked = answers(GeneratorEngine(RERANKED), REQUESTS)
    for before, after in zip(plain, reranked, strict=True):
        assert {item.item_key: (item.sid, item.logprobs) for item in before} == {
            item.item_key: (item.sid, item.logprobs) for item in after
        }


def test_items_that_the_table_does_not_know_keep_their_own_order() -> None:
    known = set(TABLE.keys_T.tolist())
    for before, after in zip(
        answers(GeneratorEngine(PLAIN), REQUESTS),
        answers(GeneratorEngine(RERANKED), REQUESTS),
        strict=True,
    ):
        new = [item.item_key for item in before if item.item_key not in known]
        assert len(new) > 5
        assert [item.item_key for item in after if item.item_key not in known] == new


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    engine = GeneratorEngine(RERANKED)
    for asked, together in zip(REQUESTS, answers(engine, REQUESTS), strict=True):
        (alone,) = answers(engine, [asked])
        assert [i.item_key for i in alone] == [i.item_key for i in together]
        terms = [i.table_term for i in together]
        assert [i.table_term for i in alone] == pytest.approx(terms, abs=1e-6)


def test_a_version_takes_its_table_along_and_one_without_has_none(tmp_path: Path) -> None:
    parts = (PLAIN.generator, INDEX)
    second = msgspec.structs.replace(PLAIN.manifest, policy_version=2)
    with_table = load_version(write_version(tmp_path, PLAIN.manifest, *parts, TABLE))
    without = load_version(write_version(tmp_path, second, *parts))
    assert with_table.manifest.files.keys() == {*FILES, FILE_NAME}
    assert without.manifest.files.keys() == set(FILES)
    assert without.neighbours is None
    assert answers(GeneratorEngine(with_table), REQUESTS) == answers(
        GeneratorEngine(RERANKED), REQUESTS
    )


def test_a_table_that_the_versions_manifest_does_not_vouch_for_is_refused(tmp_path: Path) -> None:
    folder = write_version(tmp_path, PLAIN.manifest, PLAIN.generator, INDEX, TABLE)
    save_neighbours(folder, small_neighbours(INDEX, seed=1))
    with pytest.raises(PolicyDirectoryInvalid, match=f"{FILE_NAME}: found sha256"):
        load_version(folder)
    (folder / FILE_NAME).unlink()
    with pytest.raises(PolicyDirectoryInvalid, match=f"{FILE_NAME}: found no file"):
        load_version(folder)


def test_a_generation_has_the_table_that_its_manifest_names(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    record = save_neighbours(tmp_path, TABLE)
    assert record.sha256 == hashlib.sha256((tmp_path / FILE_NAME).read_bytes()).hexdigest()
    assert (record.items, record.pairs) == (len(TABLE.keys_T), len(TABLE.places_E))
    manifest.write_text('{"generation": 1}')
    assert neighbours_of_generation(tmp_path) is None
    said = {"generation": 1, "neighbours": msgspec.to_builtins(record)}
    manifest.write_text(json.dumps(said))
    found = neighbours_of_generation(tmp_path)
    assert found is not None
    assert torch.equal(found.weights_E, TABLE.weights_E)
    assert found.config.floor == TABLE.config.floor
    save_neighbours(tmp_path, small_neighbours(INDEX, seed=1))
    with pytest.raises(TensorFileInvalid, match=f"wanted sha256 {record.sha256}"):
        neighbours_of_generation(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(TensorFileInvalid, match="found no file"):
        neighbours_of_generation(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("places", lambda places: places + len(TABLE.keys_T)),
        ("places", lambda places: places.astype("int64")),
        ("starts", lambda starts: starts[::-1].copy()),
        ("weights", lambda weights: -weights),
        ("floor", lambda floor: floor * 0),
        ("recent", lambda recent: recent[:0]),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, change: object) -> None:
    assert callable(change)
    save_neighbours(tmp_path, TABLE)
    arrays = read_tensors(tmp_path / FILE_NAME)
    write_tensors(tmp_path / FILE_NAME, arrays | {name: change(arrays[name])})
    with pytest.raises(TensorFileInvalid):
        load_neighbours(tmp_path)
