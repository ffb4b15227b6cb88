"""Versions of semantic IDs on disk: whole or refused, growing and never changing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.artifact import (
    ArtifactExists,
    ArtifactInvalid,
    Version,
    VersionManifest,
    publish_version,
    published,
)
from models.semantic_ids.assigned_items import AssignedItems
from models.semantic_ids.encoders import reopen_encoder
from models.semantic_ids.fit import FittedSemanticIds, SemanticIdsConfig, fit_semantic_ids
from models.semantic_ids.item_features import ItemFeaturesConfig
from models.semantic_ids.item_table import Items
from models.semantic_ids.new_items import assign_new, without_known
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig
from schemas.catalog import item_key_of
from schemas.encoding import EncoderMismatch
from tests.models.semantic_ids.small_catalogue import CATALOGUE, TITLES

LATER = Items(
    item_ids=["item-ä0", "late-1", "late-2"],
    texts=["blue lamp", "red tent", "steel kettle"],
    categories=["", "All > tent", "All > kettle"],
)
CONFIG = SemanticIdsConfig(
    features=ItemFeaturesConfig(text_dim=16),
    codebooks=ResidualKMeansConfig(codes=6, iterations=5, restarts=1),
)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def encoder() -> CharacterEncoder:
    return CharacterEncoder.fit(TITLES)


@pytest.fixture(scope="module")
def fitted(encoder: CharacterEncoder) -> FittedSemanticIds:
    return fit_semantic_ids(CATALOGUE, None, encoder, CONFIG, silent)


def publish(target: Path, fitted: FittedSemanticIds, encoder: CharacterEncoder) -> VersionManifest:
    return publish_version(
        target,
        codebooks=fitted.codebooks,
        features=fitted.features,
        save_encoder=encoder.save,
        items=fitted.items,
        about={
            "created_ms": 5,
            "encoder": {"kind": "builtin", "encoder_id": encoder.encoder_id},
            "interactions": 0,
            "queries": 0,
            "dropped": {},
            "settings": {},
        },
    )


@pytest.fixture
def folder(tmp_path: Path, fitted: FittedSemanticIds, encoder: CharacterEncoder) -> Path:
    publish(tmp_path / "1", fitted, encoder)
    return tmp_path / "1"


def later(version: Version, encoder: CharacterEncoder) -> AssignedItems:
    new = without_known(LATER, set(version.items.item_ids))
    return assign_new(new, encoder, version.features, version.codebooks, silent)


def sid_of(version: Version) -> dict[str, list[int]]:
    return dict(zip(version.items.item_ids, version.items.sids.tolist(), strict=True))


def test_a_version_opens_as_it_was_published(folder: Path, fitted: FittedSemanticIds) -> None:
    version = Version(folder)
    assert version.items.item_ids == CATALOGUE.item_ids
    assert version.items.categories == CATALOGUE.categories
    np.testing.assert_array_equal(version.items.sids, fitted.items.sids)
    np.testing.assert_array_equal(version.codebooks.centroids, fitted.codebooks.centroids)
    assert (version.manifest.levels, version.manifest.codes, version.manifest.items) == (3, 6, 48)
    assert version.items.report(6) == fitted.items.report(6)


def test_equal_input_gives_equal_codebooks_by_their_id(
    folder: Path, encoder: CharacterEncoder
) -> None:
    again = fit_semantic_ids(CATALOGUE, None, encoder, CONFIG, silent)
    manifest = publish(folder.parent / "again", again, encoder)
    assert manifest.codebook_id == Version(folder).manifest.codebook_id


def test_new_items_are_appended_and_no_published_id_moves(
    folder: Path, encoder: CharacterEncoder
) -> None:
    before = sid_of(Version(folder))
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    version = Version(folder)
    segment = version.append(later(version, encoder), {}, created_ms=7)
    assert segment.name == "000002"
    after = Version(folder)
    assert list(sid_of(after)) == [*CATALOGUE.item_ids, "late-1", "late-2"]
    assert {item_id: sid_of(after)[item_id] for item_id in before} == before
    assert all(path.read_bytes() == content for path, content in files.items())
    # "red tent" is in the catalogue: the same words get the same ID, then and now.
    assert sid_of(after)["late-1"] == before[CATALOGUE.item_ids[TITLES.index("red tent")]]


def test_an_item_that_has_an_id_is_kept_out_counted_and_refused(
    folder: Path, encoder: CharacterEncoder
) -> None:
    version = Version(folder)
    new = without_known(LATER, set(version.items.item_ids))
    assert new.item_ids == ["late-1", "late-2"]
    assert new.dropped == {"with a semantic ID already": 1}
    moved = assign_new(LATER, encoder, version.features, version.codebooks, silent)
    with pytest.raises(ArtifactExists, match="item-ä0"):
        version.append(moved, {}, created_ms=7)
    assert Version(folder).segments == 1


def test_of_two_that_append_at_once_the_second_is_refused(
    folder: Path, encoder: CharacterEncoder
) -> None:
    first, second = Version(folder), Version(folder)
    first.append(later(first, encoder), {}, created_ms=7)
    with pytest.raises(ArtifactExists, match="000002"):
        second.append(later(second, encoder), {}, created_ms=8)
    assert Version(folder).segments == 2
    assert not list((folder / "assignments").glob(".*"))


def test_a_published_folder_is_never_written_over(
    folder: Path, fitted: FittedSemanticIds, encoder: CharacterEncoder
) -> None:
    with pytest.raises(ArtifactExists, match="never move"):
        publish(folder, fitted, encoder)


def test_a_target_that_is_there_stops_the_work_before_it_begins(folder: Path) -> None:
    began = False
    with pytest.raises(ArtifactExists), published(folder):
        began = True
    assert not began


def test_a_target_that_appears_while_the_work_is_done_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "1"

    def compete() -> None:
        with published(target) as draft:
            (draft / "mine").touch()
            target.mkdir()
            (target / "of another").touch()

    with pytest.raises(ArtifactExists):
        compete()
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "of another"]


def test_a_fit_that_dies_leaves_nothing_behind(
    tmp_path: Path, fitted: FittedSemanticIds, encoder: CharacterEncoder
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(folder)

    with pytest.raises(OSError, match="1-"):
        publish_version(
            tmp_path / "1",
            codebooks=fitted.codebooks,
            features=fitted.features,
            save_encoder=fail,
            items=fitted.items,
            about={},
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["codebooks.safetensors", "item_features.json", "assignments/000001/assignments.safetensors"],
)
def test_a_torn_folder_is_refused_by_the_file(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    with pytest.raises(ArtifactInvalid, match=f"{path.name}: found .*, wanted sha256"):
        Version(folder)
    path.unlink()
    with pytest.raises(ArtifactInvalid, match=f"{path.name}: found no file"):
        Version(folder)


def test_a_folder_mixed_from_two_fits_is_refused(
    folder: Path, encoder: CharacterEncoder, tmp_path: Path
) -> None:
    config = SemanticIdsConfig(features=CONFIG.features, codebooks=ResidualKMeansConfig(codes=5))
    other = fit_semantic_ids(CATALOGUE, None, encoder, config, silent)
    publish(tmp_path / "2", other, encoder)
    shutil.rmtree(folder / "assignments")
    shutil.copytree(tmp_path / "2" / "assignments", folder / "assignments")
    with pytest.raises(ArtifactInvalid, match="a segment of codebooks"):
        Version(folder)


def test_a_missing_or_exchanged_segment_is_refused(folder: Path, encoder: CharacterEncoder) -> None:
    version = Version(folder)
    found = later(version, encoder)
    version.append(found, {}, created_ms=7)
    second = folder / "assignments" / "000002"
    shutil.move(second, folder / "assignments" / "000003")
    with pytest.raises(ArtifactInvalid, match="found 000003, wanted 000002"):
        Version(folder)
    shutil.move(folder / "assignments" / "000003", second)
    about = folder / "assignments" / "000001" / "manifest.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "created_ms": 6}))
    with pytest.raises(ArtifactInvalid, match="after manifest"):
        Version(folder)


def test_a_draft_that_a_killed_process_left_is_no_segment(folder: Path) -> None:
    (folder / "assignments" / ".000002-x1").mkdir()
    assert Version(folder).segments == 1


def test_item_keys_are_written_for_readers_who_know_no_ids(folder: Path) -> None:
    from models.tensor_file import read_tensors

    tensors = read_tensors(folder / "assignments" / "000001" / "assignments.safetensors")
    assert tensors["item_keys"].tolist() == [item_key_of(i) for i in CATALOGUE.item_ids]


def test_another_encoder_than_the_fits_is_refused(
    folder: Path, encoder: CharacterEncoder, tmp_path: Path
) -> None:
    manifest = Version(folder).manifest
    found = reopen_encoder(folder, "builtin", manifest.encoder.encoder_id, None)
    assert found.encoder_id == encoder.encoder_id
    with pytest.raises(EncoderMismatch, match="wanted another: name its folder"):
        reopen_encoder(folder, "builtin", "another", None)
    with pytest.raises(EncoderMismatch, match="encoder none named, wanted bert-1"):
        reopen_encoder(folder, "folder", "bert-1", None)
