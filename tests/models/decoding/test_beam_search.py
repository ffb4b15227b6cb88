"""Beam search against brute force over all semantic IDs."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.beam_search import SearchResult, beam_search, best_places
from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead, ScoreSemantics
from tests.models.decoding.brute_force import LOGPROBS, Sid, TableStates, best_by_beams

CODES = 5
BEAMS = st.integers(1, 4) | st.integers(5, 50)  # narrower than a node has children, and wider


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A catalogue, logits by prefix, who is eligible, a width, what the softmax runs over."""

    sids: list[Sid]
    eligible: list[bool]
    logits: dict[Sid, list[float]]
    beams: int
    semantics: ScoreSemantics

    @property
    def logprobs(self) -> dict[Sid, list[float]]:
        return LOGPROBS[self.semantics](self.sids, self.logits)


@st.composite
def cases(draw: st.DrawFn, logit: st.SearchStrategy[float], fewest: int = 1) -> Case:
    depth = draw(st.integers(1, 4) if fewest == 1 else st.just(2))
    sid = st.tuples(*[st.integers(0, CODES - 1)] * depth)
    sids = draw(st.lists(sid, min_size=fewest, max_size=40))
    eligible = draw(st.lists(st.booleans(), min_size=len(sids), max_size=len(sids)))
    prefixes = TableStates.of(sids).prefixes
    rows = st.lists(logit, min_size=CODES, max_size=CODES)
    logits = {prefix: draw(rows) for prefix in prefixes}
    semantics = draw(st.sampled_from(ScoreSemantics))
    beams = draw(BEAMS)
    return Case(sids=sids, eligible=eligible, logits=logits, beams=beams, semantics=semantics)


def search(case: Case, first: int | None = None) -> tuple[ItemIndex, SearchResult]:
    """Searches an index built of all items, or of the `first` ones and grown by the others."""
    arrays = {
        "keys": torch.arange(len(case.sids)),
        "codes": torch.tensor(case.sids),
        "content": torch.zeros(len(case.sids), 1),
        "in_stock": torch.tensor(case.eligible),
    }
    index = ItemIndex.build(**{name: array[:first] for name, array in arrays.items()})
    if first is not None:
        further = {name: array[first:] for name, array in arrays.items()}
        shown = torch.ones(1, len(case.sids) - first, dtype=torch.bool)
        index = index.grown(**further, scenarios=shown)
    states = TableStates.of(case.sids)
    weight = torch.zeros(index.depth, CODES, states.width)
    for prefix, place in states.prefixes.items():
        weight[len(prefix), :, place] = torch.tensor(case.logits[prefix])
    head = CodeHead(weight, torch.zeros(index.depth, CODES))
    masks = index.masks(torch.tensor([0]), torch.zeros(1, 0, dtype=torch.int64))
    return index, beam_search(states, head, index, masks, case.beams, case.semantics)


def live_sids(case: Case) -> set[Sid]:
    return {sid for sid, ok in zip(case.sids, case.eligible, strict=True) if ok}


def found(index: ItemIndex, result: SearchResult) -> list[Sid]:
    live_W = result.live_BW[0]
    return [tuple(sid) for sid in index.sids[result.leaves_BW[0][live_W]].tolist()]


# Logits a tenth apart or equal: sums that differ are further apart than float32's rounding.
SPACED = st.integers(-40, 40).map(lambda number: number * 0.73)
EQUAL = st.just(0.0)


@given(cases(SPACED) | cases(SPACED, fewest=25))
@settings(max_examples=80)
def test_under_either_semantics_the_search_keeps_what_brute_force_keeps(case: Case) -> None:
    index, result = search(case)
    wanted = best_by_beams(case.logprobs, live_sids(case), case.beams)
    scores = [score for _, score in wanted]
    assert result.scores_BW[0][result.live_BW[0]].tolist() == pytest.approx(scores, abs=1e-4)
    assert set(found(index, result)) <= live_sids(case)


@given(cases(SPACED, fewest=2) | cases(EQUAL, fewest=2), st.data())
@settings(max_examples=60)
def test_a_grown_index_gives_to_the_bit_what_the_built_one_gives(
    case: Case, data: st.DataObject
) -> None:
    index, result = search(case)
    grown, found_there = search(case, first=data.draw(st.integers(1, len(case.sids) - 1)))
    assert found(grown, found_there) == found(index, result)
    assert torch.equal(found_there.logprobs_BWL, result.logprobs_BWL)
    assert torch.equal(found_there.scores_BW, result.scores_BW)


@given(cases(EQUAL))
@settings(max_examples=30)
def test_of_equal_scores_the_smaller_sid_is_kept_and_stands_first(case: Case) -> None:
    index, result = search(case)
    wanted = best_by_beams(case.logprobs, live_sids(case), case.beams)
    assert found(index, result) == [sid for sid, _ in wanted]


@given(cases(SPACED))
@settings(max_examples=30)
def test_a_search_as_wide_as_the_catalogue_is_the_full_enumeration(case: Case) -> None:
    case = replace(case, beams=len(case.sids))
    index, result = search(case)
    logprobs = case.logprobs
    assert set(found(index, result)) == live_sids(case)
    for sid, own in zip(
        found(index, result), result.logprobs_BWL[0][result.live_BW[0]].tolist(), strict=True
    ):
        assert own == pytest.approx(logprobs[sid], abs=1e-4)


@given(cases(SPACED))
@settings(max_examples=30)
def test_as_many_sids_return_as_are_live_up_to_the_width_and_none_twice(case: Case) -> None:
    index, result = search(case)
    sids = found(index, result)
    assert len(sids) == min(case.beams, len(live_sids(case)))
    assert len(set(sids)) == len(sids)


@given(cases(SPACED))
@settings(max_examples=60)
def test_masks_remove_beams_and_never_change_the_log_probs_of_the_rest(case: Case) -> None:
    index, full = search(replace(case, eligible=[True] * len(case.sids), beams=60))
    _, part = search(replace(case, beams=60))
    unmasked = dict(zip(found(index, full), full.logprobs_BWL[0].tolist(), strict=False))
    for sid, own in zip(
        found(index, part), part.logprobs_BWL[0][part.live_BW[0]].tolist(), strict=True
    ):
        assert own == pytest.approx(unmasked[sid], abs=1e-5)


ROWS = st.lists(
    st.tuples(st.sampled_from([-math.inf, -2.5, -2.25, -1e-30, -0.0, 0.0]), st.integers(0, 9)),
    min_size=1,
    max_size=30,
)


@given(ROWS, st.integers(1, 35))
def test_best_places_falls_by_score_and_of_equal_ones_the_smaller_id_is_first(
    row: list[tuple[float, int]], count: int
) -> None:
    scores, ids = (torch.tensor([column]) for column in zip(*row, strict=True))
    found = best_places(scores.float(), ids, count)[0].tolist()
    wanted = sorted(range(len(row)), key=lambda place: (-row[place][0], row[place][1]))[:count]
    assert [row[place] for place in found] == [row[place] for place in wanted]
