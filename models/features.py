"""Behaviour to features: the one function that serving and training share (numpy-free, torch-free).

An impression carries its result, so what was served can be recomputed although history moves on.
"""

from collections.abc import Sequence

from schemas.actions import ACTION_CODES, ActionType
from schemas.behaviour import Behaviour
from schemas.impressions import HistoryFeatures

GAP_BUCKETS = 32
# A search has no item; an exposure is what the policy did, not what the user did.
NOT_HISTORY = frozenset({ActionType.SEARCH, ActionType.EXPOSE})


def build_history(behaviour: Sequence[Behaviour], now_ms: int, limit: int) -> HistoryFeatures:
    """Returns the newest `limit` actions on items as three aligned lists, oldest first.

    Actions without an item, searches and exposures are left out. `behaviour` may come in any order;
    actions of one millisecond are ordered by event id, so that the same history gives the same
    features everywhere.
    """
    on_items = [
        (action.event_time_ms, action.event_id, action.item_key, ACTION_CODES[action.action])
        for action in behaviour
        if action.item_key is not None and action.action not in NOT_HISTORY
    ]
    newest = sorted(on_items)[-limit:] if limit > 0 else []
    return HistoryFeatures(
        item_keys=[key for _, _, key, _ in newest],
        action_codes=[code for _, _, _, code in newest],
        gap_buckets=[gap_bucket(now_ms - time_ms) for time_ms, _, _, _ in newest],
    )


def gap_bucket(gap_ms: int) -> int:
    """Returns min(31, floor(log2(1 + gap in seconds))); a gap below 0 (a clock ahead of ours)
    counts as 0.
    """
    whole_s = max(0, gap_ms) // 1_000
    return min(GAP_BUCKETS - 1, (1 + whole_s).bit_length() - 1)
