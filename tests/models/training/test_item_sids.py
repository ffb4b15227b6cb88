"""Item features that hold behaviour: what is counted, and the generation that rests on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.alignment import AlignmentConfig
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.sid_assigner import SidAssigner
from models.training.fit import fit_generation
from models.training.item_sids import SEARCH_MS, behaviour_of_log
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, item_key_of
from tests.models.training.test_fit import CONFIG, ITEMS, fit, log, one_thread

__all__ = ["one_thread"]  # small tensors here too

AT_MS = 1_783_000_000_000
THREE = [ItemUpsert(item_id=name, title=name, category="") for name in ("a", "b", "c")]


def act(user: str, kind: ActionType, after_ms: int, what: str) -> UserAction:
    words = kind is ActionType.SEARCH
    return UserAction(
        event_id=f"{user}-{after_ms}",
        user_id=user,
        action=kind,
        event_time_ms=AT_MS + after_ms,
        item_id=None if words else what,
        query=what if words else None,
    )


def test_choices_are_counted_with_their_neighbours_and_with_the_words_before_them() -> None:
    behaviour = behaviour_of_log(
        THREE,
        [
            act("ann", ActionType.CLICK, 40, "c"),
            act("ann", ActionType.SEARCH, 10, "tea"),
            act("ann", ActionType.CLICK, 20, "a"),
            act("ann", ActionType.CLICK, 30, "gone"),
            act("bob", ActionType.CART, 50, "b"),
            act("bob", ActionType.DISLIKE, 60, "a"),
            act("bob", ActionType.SEARCH, 70, "salt"),
            act("bob", ActionType.ORDER, 70 + SEARCH_MS, "c"),
            act("bob", ActionType.ORDER, 71 + SEARCH_MS, "a"),
        ],
        window=1,
    )
    assert behaviour is not None
    assert behaviour.pairs.toarray().tolist() == [[0, 0, 2], [0, 0, 1], [2, 1, 0]]
    assert behaviour.query_texts == ["tea", "salt"]
    assert behaviour.queries is not None
    assert behaviour.queries.toarray().tolist() == [[1, 0], [0, 0], [1, 1]]
    assert behaviour.interactions == 5


def test_without_a_choice_there_is_nothing_to_align() -> None:
    assert behaviour_of_log(THREE, [act("ann", ActionType.SEARCH, 10, "tea")], window=1) is None


def test_a_generation_of_fused_features_gives_its_items_the_sids_it_was_trained_with(
    tmp_path: Path,
) -> None:
    config = replace(CONFIG, features="fused", alignment=AlignmentConfig(hidden=16, steps=5))
    manifest, _ = fit(tmp_path, config)
    folder = tmp_path / "generations" / "3"
    encoder, assigner = CharacterEncoder.load(folder), SidAssigner.load(folder)
    texts = encoder.encode([item_text(item) for item in ITEMS])
    sids = assigner.assign([item_key_of(item.item_id) for item in ITEMS], texts)
    assert manifest.features == "fused"
    assert len(np.unique(sids, axis=0)) == manifest.distinct_semantic_ids
    assert assigner.features is not None
    assert assigner.features.behaviour.size  # chosen together counts, beside the text
    later = encoder.encode(["umbrella model 9"])
    found = assigner.assign([item_key_of("umbrella-9")], later)
    wanted = Codebooks.load(folder).assign(assigner.features.features(later))
    np.testing.assert_array_equal(found, wanted)


def test_where_nobody_chose_two_items_the_text_alone_is_quantised(tmp_path: Path) -> None:
    config = replace(CONFIG, features="fused")
    lone = replace(log([]), actions=[act("ann", ActionType.CLICK, 10, ITEMS[0].item_id)])
    manifest = fit_generation(lone, home=tmp_path, generation=1, created_ms=0, config=config)
    assert manifest.features == "text"
    assert SidAssigner.load(tmp_path / "generations" / "1").features is None
