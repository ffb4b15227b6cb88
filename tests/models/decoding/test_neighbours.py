"""The table of neighbours beside one that is written with dictionaries."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.neighbours import NeighbourConfig, Neighbours, NeighboursInvalid
from models.training.neighbour_table import neighbours_of, table_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of

CONFIG = NeighbourConfig(weight=0.5, recent=4, kept=3, window=2)
KEYS = [11, 12, 13, 2**40, 2**62]  # chosen by somebody
STRANGE = [5, 2**63 - 1]  # by nobody

sequences = st.lists(st.lists(st.sampled_from(KEYS), max_size=7), min_size=1, max_size=5)
histories = st.lists(st.lists(st.sampled_from(KEYS + STRANGE), max_size=6), min_size=1, max_size=3)
configs = st.builds(
    NeighbourConfig,
    weight=st.just(0.5),
    recent=st.integers(1, 5),
    kept=st.integers(1, 6),
    window=st.integers(1, 5),
    backward=st.sampled_from([0.0, 0.5, 1.0]),
)


def by_dictionary(
    chosen: Sequence[Sequence[int]], config: NeighbourConfig
) -> dict[int, dict[int, float]]:
    """Returns w by item and neighbour, cut to the strongest `kept`."""
    counts: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    popularity: defaultdict[int, int] = defaultdict(int)
    for items in chosen:
        for a, one in enumerate(items):
            popularity[one] += 1
            for b, other in enumerate(items):
                if one == other or not 0 < abs(a - b) <= config.window:
                    continue
                counts[one][other] += (1 if b > a else config.backward) / abs(a - b)
    table = {}
    for one, found in counts.items():
        damped = {j: w / popularity[j] ** config.damping for j, w in found.items() if w > 0}
        strongest = sorted(damped, key=lambda j: (-damped[j], j))[: config.kept]
        table[one] = {j: damped[j] for j in strongest}
    return table


def shares_by_dictionary(
    table: dict[int, dict[int, float]], history: Sequence[int], config: NeighbourConfig
) -> dict[int, float]:
    scores: defaultdict[int, float] = defaultdict(float)
    for age, item in enumerate(list(reversed(history))[: config.recent]):
        for other, weight in table.get(item, {}).items():
            scores[other] += config.decay**age * weight
    total = sum(scores.values())
    return {item: score / total for item, score in scores.items()}


def built(chosen: Sequence[Sequence[int]], config: NeighbourConfig) -> Neighbours | None:
    users = np.repeat(np.arange(len(chosen)), [len(items) for items in chosen])
    keys = np.array([item for items in chosen for item in items], dtype=np.int64)
    return table_of(users, keys, config)


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[UNKNOWN] * (longest - len(row))] for row in rows]).long()


@given(sequences, histories, configs)
def test_shares_are_those_of_dictionaries(
    chosen: list[list[int]], asked: list[list[int]], config: NeighbourConfig
) -> None:
    # Equal weights of different pairs may round apart in either: cuts are then compared elsewhere.
    if config.kept < len(KEYS):
        config = replace(config, damping=0.0, window=1, backward=0.5)
    wanted, table = by_dictionary(chosen, config), built(chosen, config)
    if table is None:
        assert not any(wanted.values())
        return
    candidates = torch.tensor([KEYS + STRANGE] * len(asked))
    found = table.shares(padded(asked), candidates)
    for history, row in zip(asked, found.tolist(), strict=True):
        shares = shares_by_dictionary(wanted, history, config)
        assert row == pytest.approx([shares.get(key, 0.0) for key in KEYS + STRANGE], abs=1e-6)


def test_the_numbers_of_the_recipe_by_hand() -> None:
    table = built([[11, 12, 13]], NeighbourConfig(weight=1.0))
    assert table is not None
    # After 12 (newest) and 11: 13 at distance 1 and 2; before: 11 by half.
    shares = table.shares(torch.tensor([[11, 12]]), torch.tensor([[11, 12, 13]]))[0]
    scores = [0.5, 0.6, 1 + 0.6 / 2]
    assert shares.tolist() == pytest.approx([score / sum(scores) for score in scores])


def test_popular_items_are_damped_and_the_strongest_kept() -> None:
    chosen = [[11, 12], [11, 12], [11, 13], [12], [12]]
    table = built(chosen, replace(CONFIG, kept=1))
    assert table is not None
    row = slice(int(table.starts[0]), int(table.starts[1]))
    assert table.places_E[row].tolist() == [1]
    assert table.weights_E[row].tolist() == pytest.approx([2 / 4**0.3])


def test_of_equal_neighbours_the_smaller_keys_are_kept() -> None:
    table = built([[11, 2**62], [11, 13], [11, 12]], replace(CONFIG, kept=2))
    assert table is not None
    assert table.keys_T[table.places_E[: int(table.starts[1])]].tolist() == [12, 13]


def index_of(keys: Sequence[int]) -> ItemIndex:
    return ItemIndex.build(
        keys=torch.tensor(keys),
        codes=torch.zeros(len(keys), 2, dtype=torch.int64),
        content=torch.zeros(len(keys), 4),
    )


def test_a_term_is_the_weighted_log_of_the_share_over_the_floor_and_never_above_0() -> None:
    table = built([[11, 12], [13, 11]], CONFIG)
    assert table is not None
    index = index_of([5, 11, 12, 13])
    history = torch.tensor([[1], [2], [0], [UNKNOWN]])  # 11, 12, one in no sequence, nothing
    terms = table.terms(index, history, torch.arange(4).repeat(4, 1))
    damped = [0.5, 1.0]  # 13 came before 11, 12 after it; both once
    floor = CONFIG.floor
    for place, weight in zip((3, 2), damped, strict=True):
        share = weight / sum(damped)
        wanted = 0.5 * math.log((share + floor) / (1 + floor))
        assert terms[0, place].item() == pytest.approx(wanted, abs=1e-6)
    lowest = pytest.approx(0.5 * math.log(floor / (1 + floor)), abs=1e-5)
    assert terms[0, 0].item() == lowest  # a new item: all of its kind alike
    assert terms[1].tolist() == [lowest, 0, lowest, lowest]  # 11 has the whole share of 12
    assert terms[2:].flatten().tolist() == [lowest] * 8


def act(user: str, at_ms: int, item: str | None, kind: ActionType = ActionType.CLICK) -> UserAction:
    return UserAction(
        event_id=f"{user}-{at_ms}",
        user_id=user,
        action=kind,
        event_time_ms=1_783_000_000_000 + at_ms,
        item_id=item,
        query=None if item else "words",
    )


def test_choices_alone_are_counted_by_user_and_time() -> None:
    log = [
        act("b", 9, "y", ActionType.ORDER),
        act("a", 4, "z"),
        act("a", 1, "x"),
        act("a", 2, "w", ActionType.DISLIKE),
        act("a", 3, None, ActionType.SEARCH),
        act("b", 8, "x"),
    ]
    table = neighbours_of(log, CONFIG)
    assert table is not None
    names = {item_key_of(name): name for name in "wxyz"}
    shares = table.shares(torch.tensor([[item_key_of("x")]]), torch.tensor([list(names)]))[0]
    found = dict(zip(names.values(), shares.tolist(), strict=True))
    assert found == pytest.approx({"w": 0, "x": 0, "y": 0.5, "z": 0.5})
    assert neighbours_of(log, replace(CONFIG, weight=0.0)) is None
    assert neighbours_of(log[:2], CONFIG) is None
    assert neighbours_of([], CONFIG) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", -1.0), ("weight", math.nan), ("floor", 0.0), ("decay", 1.5), ("recent", 0)],
)
def test_a_setting_beside_its_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(NeighboursInvalid, match=f"{field}: found {value}"):
        replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("field", "arrays"),
    [
        ("keys", {"keys_T": [12, 11]}),
        ("starts", {"starts": [0, 2, 1]}),
        ("starts", {"starts": [0, 1]}),
        ("places", {"places_E": [0, 2]}),
        ("weights", {"weights_E": [1.0, math.inf]}),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    field: str, arrays: dict[str, list[float]]
) -> None:
    table = built([[11, 12]], CONFIG)
    assert table is not None
    changed: dict[str, Any] = {name: torch.tensor(values) for name, values in arrays.items()}
    with pytest.raises(NeighboursInvalid, match=field):
        replace(table, **changed)
