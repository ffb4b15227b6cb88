"""Why a slate is what it is: what the generator was given, all it answered, and what became of
each item. Pure; made only where a request asks for it.
"""

from collections.abc import Mapping

from msgspec import Struct

from schemas.actions import ACTION_CODES
from schemas.catalog import ItemRow
from schemas.generation import GenerationRequest, GenerationResponse
from schemas.impressions import Slot

ACTIONS = {code: action.value for action, code in ACTION_CODES.items()}


class HistoryRead(Struct, frozen=True, kw_only=True):
    """One action that the generator was given (with IGR it reads a part of them).

    `item_id` null: an item without a row.

    `seconds_ago` is a bucket's lower end: 0, 1, 3, 7, .. 2^b - 1.
    """

    item_id: str | None
    action: str
    seconds_ago: int


class Candidate(Struct, frozen=True, kw_only=True):
    """One item of a finished beam. `score` = sum of `code_logprobs` + `item_logprob` +
    `table_term`: what a table re-ranker says of item and history, 0 where the policy has none.

    `fate`: shown, explored, below the slate, not live, not in this scenario, or no row.
    """

    item_id: str | None
    semantic_id: str
    code_logprobs: list[float]
    item_logprob: float
    table_term: float
    score: float
    fate: str


class Explanation(Struct, frozen=True, kw_only=True):
    """`history` oldest first, `candidates` best first: the items of all `beams` finished beams.

    What the index masks (stock, scenario, `excluded` items) never becomes a candidate; what the
    item rows say, newer than the index, is a candidate's fate.
    """

    scenario: str
    trigger_item_id: str | None
    instruction: str
    beams: int
    excluded: int
    history: list[HistoryRead]
    candidates: list[Candidate]


def explanation_of(
    request: GenerationRequest,
    response: GenerationResponse,
    shown: Mapping[int, Slot],
    rows: Mapping[int, ItemRow],
    instruction: str | None,
) -> Explanation:
    """Returns the explanation of a generated slate: `shown` by item key, `rows` as far as they were
    read, the text of the `instruction` in force.
    """
    history = request.history
    return Explanation(
        scenario=request.scenario,
        trigger_item_id=_item_id(rows, request.trigger_key),
        instruction="the learnable default" if instruction is None else instruction,
        beams=request.beams,
        excluded=len(request.exclude_keys),
        history=[
            HistoryRead(
                item_id=_item_id(rows, key), action=ACTIONS[code], seconds_ago=2**bucket - 1
            )
            for key, code, bucket in zip(
                history.item_keys, history.action_codes, history.gap_buckets, strict=True
            )
        ],
        candidates=[
            Candidate(
                item_id=_item_id(rows, item.item_key),
                semantic_id="-".join(map(str, item.sid)),
                code_logprobs=item.logprobs,
                item_logprob=item.score - item.table_term - sum(item.logprobs),
                table_term=item.table_term,
                score=item.score,
                fate=_fate(rows.get(item.item_key), shown.get(item.item_key), request.scenario),
            )
            for item in response.items
        ],
    )


def keys_to_name(request: GenerationRequest, response: GenerationResponse) -> list[int]:
    """Returns the keys of all items that an explanation names."""
    keys = {*request.history.item_keys, *(item.item_key for item in response.items)}
    return sorted(keys | ({request.trigger_key} if request.trigger_key is not None else set()))


def _item_id(rows: Mapping[int, ItemRow], key: int | None) -> str | None:
    row = None if key is None else rows.get(key)
    return None if row is None else row.item_id


def _fate(row: ItemRow | None, slot: Slot | None, scenario: str) -> str:
    if slot is not None:
        return "explored" if slot is Slot.EXPLORED else "shown"
    if row is None:
        return "no row"
    if not row.live:
        return "not live"
    if row.scenarios is not None and scenario not in row.scenarios:
        return "not in this scenario"
    return "below the slate"
