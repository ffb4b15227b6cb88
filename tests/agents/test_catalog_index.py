"""What the catalogue publishes: a SID that never moves, no repeat, no two items under one key."""

import numpy as np
import pytest

from agents import catalog_index
from agents.catalog_index import CatalogIndex, Change, IndexPlan, decode_changes
from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.sid_assigner import SidAssigner
from models.vectors import unpack
from schemas.catalog import ItemUpsert, item_key_of
from schemas.codec import encode
from schemas.dead_letters import Reason
from streams.dead_letters import Source

NOW_MS = 1_767_225_600_000
TITLES = ("red umbrella", "blue umbrella", "copper kettle", "wool blanket", "desk lamp")
ITEMS = [
    ItemUpsert(item_id=f"i-{n}", title=title, category="Home") for n, title in enumerate(TITLES)
]
ENCODER = CharacterEncoder.fit([item_text(item) for item in ITEMS])
CODEBOOKS = Codebooks(
    centroids=np.random.default_rng(0).standard_normal((3, 8, ENCODER.dim)).astype(np.float32)
)
ASSIGNER = SidAssigner(codebooks=CODEBOOKS)


def upsert(item: ItemUpsert) -> Change:
    return Change(source=source(item.item_id, encode(item)), item_id=item.item_id, item=item)


def deletion(item_id: str) -> Change:
    return Change(source=source(item_id, None), item_id=item_id, item=None)


def source(key: str, value: bytes | None) -> Source:
    return Source(topic="catalog", partition=0, offset=0, key=key.encode(), value=value)


def changed(number: int, **fields: object) -> ItemUpsert:
    values = {"item_id": f"i-{number}", "title": TITLES[number], "category": "Home"} | fields
    return ItemUpsert(**values)  # type: ignore[arg-type]


@pytest.fixture
def index() -> CatalogIndex:
    return CatalogIndex(1, ASSIGNER)


def plan_of(index: CatalogIndex, *changes: Change) -> IndexPlan:
    fresh = index.new_items(changes)
    vectors = ENCODER.encode([item_text(item) for item in fresh.values()])
    return index.plan(changes, dict(zip(fresh, vectors, strict=True)), NOW_MS)


def test_a_new_item_gets_the_sid_of_its_text_and_a_live_row(index: CatalogIndex) -> None:
    plan = plan_of(index, *map(upsert, ITEMS))
    vectors = ENCODER.encode([item_text(item) for item in ITEMS])
    assert [a.sid for a in plan.assignments] == CODEBOOKS.assign(vectors).tolist()
    np.testing.assert_allclose(unpack(plan.assignments[0].embedding), vectors[0], atol=1e-3)
    row = plan.rows[item_key_of("i-0")]
    assert row is not None
    assert (row.item_id, row.live, row.title) == ("i-0", True, "red umbrella")


def test_a_new_title_moves_neither_sid_nor_vector(index: CatalogIndex) -> None:
    before = plan_of(index, upsert(ITEMS[0])).assignments[0]
    plan = plan_of(index, upsert(changed(0, title="desk lamp")))
    assert not plan.assignments
    row = plan.rows[before.item_key]
    assert row is not None
    assert row.title == "desk lamp"
    sold_out = plan_of(index, upsert(changed(0, title="desk lamp", in_stock=False))).assignments
    assert [(a.sid, a.embedding, a.in_stock) for a in sold_out] == [
        (before.sid, before.embedding, False)
    ]


def test_an_item_that_comes_twice_in_its_first_batch_has_the_sid_of_its_first_text(
    index: CatalogIndex,
) -> None:
    plan = plan_of(index, upsert(ITEMS[0]), upsert(changed(0, title="desk lamp")))
    [vector] = ENCODER.encode([item_text(ITEMS[0])])
    assert [a.sid for a in plan.assignments] == CODEBOOKS.assign(vector[None]).tolist()


def test_a_replayed_batch_publishes_nothing_again(index: CatalogIndex) -> None:
    published = plan_of(index, *map(upsert, ITEMS)).assignments
    again = CatalogIndex(1, ASSIGNER, published)
    assert not plan_of(again, *map(upsert, ITEMS)).assignments


def test_a_deleted_item_is_out_of_stock_and_not_live_and_keeps_its_sid(
    index: CatalogIndex,
) -> None:
    before = plan_of(index, upsert(ITEMS[0])).assignments[0]
    plan = plan_of(index, deletion("i-0"))
    assert [(a.sid, a.in_stock) for a in plan.assignments] == [(before.sid, False)]
    assert plan.rows == {before.item_key: None}
    back = plan_of(index, upsert(ITEMS[0])).assignments
    assert [(a.sid, a.in_stock) for a in back] == [(before.sid, True)]


def test_deleting_what_never_was_publishes_nothing(index: CatalogIndex) -> None:
    plan = plan_of(index, deletion("i-9"))
    assert not plan.assignments
    assert not plan.rows


def test_two_items_with_one_key_are_refused_and_the_first_stays(
    index: CatalogIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_index, "item_key_of", lambda item_id: 7)
    plan = plan_of(index, upsert(ITEMS[0]), upsert(ITEMS[1]))
    assert [a.item_id for a in plan.assignments] == ["i-0"]
    assert [why.reason for _, why in plan.refused] == [Reason.KEY_COLLISION]
    row = plan.rows[7]
    assert row is not None
    assert row.item_id == "i-0"


def test_within_one_batch_the_last_word_counts(index: CatalogIndex) -> None:
    plan = plan_of(index, upsert(ITEMS[0]), deletion("i-0"), upsert(changed(0, scenarios=["home"])))
    assert [(a.in_stock, a.scenarios) for a in plan.assignments] == [
        (True, None),
        (False, None),
        (True, ["home"]),
    ]
    row = plan.rows[item_key_of("i-0")]
    assert row is not None
    assert row.live


def test_an_item_deleted_in_the_batch_that_brought_it_keeps_its_text(index: CatalogIndex) -> None:
    plan = plan_of(index, upsert(ITEMS[2]), deletion("i-2"))
    row = plan.rows[item_key_of("i-2")]
    assert row is not None
    assert (row.title, row.live) == ("copper kettle", False)


def test_records_that_are_no_item_are_refused_beside_the_good() -> None:
    changes, refused = decode_changes(
        [
            source("i-0", encode(ITEMS[0])),
            source("x", b'{"item_id":"x","title":3}'),
            source("", None),
            source("i-1", None),
        ]
    )
    assert [(c.item_id, c.item is None) for c in changes] == [("i-0", False), ("i-1", True)]
    assert [(why.reason, why.field) for _, why in refused] == [
        (Reason.WRONG_TYPE, "title"),
        (Reason.MISSING_FIELD, "key"),
    ]
