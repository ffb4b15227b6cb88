"""The steady traffic of the soak, and how many windows may be open because of it. Pure."""

import random
from collections.abc import Iterator, Sequence

from msgspec import Struct

from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, item_key_of
from schemas.impressions import HistoryFeatures, Impression, SlateItem, Slot
from streams.windows import WindowConfig, window_start_ms

ACTIONS_PER_S = 2_000
HIGH_VALUE_EVERY = 25  # 4 %: 80 a second
NEW_USER_EVERY = 5  # actions: 400 new users a second, and each acts about 5 times
ACTIVE_USERS = 12_000  # a user comes and goes within half a minute
SLATE_EVERY = 100  # actions: 20 slates a second, each clicked once
SLATE_ITEMS = 5


class Traffic:
    """Actions and slates at a steady rate by users who come, act for a while and stay away."""

    def __init__(self, items: Sequence[ItemUpsert], windows: WindowConfig) -> None:
        self.sent = 0
        self._items = items
        self._config = windows
        self._rng = random.Random(0)
        self._ends: dict[tuple[str, int], int] = {}

    @property
    def users(self) -> int:
        """How many different users may have acted."""
        return self.sent // NEW_USER_EVERY + ACTIVE_USERS

    def due(self, elapsed_s: float, now_ms: int) -> Iterator[tuple[str, str, Struct]]:
        """Yields topic, key and record of what is due after `elapsed_s`."""
        while self.sent < int(elapsed_s * ACTIONS_PER_S):
            user = f"user-{self.sent // NEW_USER_EVERY + self._rng.randrange(ACTIVE_USERS):08d}"
            if self.sent % SLATE_EVERY == 1:
                slate = self._slate(user, now_ms)
                yield topics.IMPRESSIONS, user, slate
                action = self._action(user, now_ms, slate)
            else:
                action = self._action(user, now_ms, None)
            self.sent += 1
            yield topics.ACTIONS, user, action

    def open_windows(self, now_ms: int, late_ms: int) -> int:
        """Returns how many windows can be open if each closes within `late_ms` of its grace."""
        closed_ms = now_ms - self._config.grace_ms - late_ms
        self._ends = {window: end for window, end in self._ends.items() if end > closed_ms}
        return len(self._ends)

    def _action(self, user: str, now_ms: int, slate: Impression | None) -> UserAction:
        high_value = self.sent % HIGH_VALUE_EVERY == 0
        if high_value:
            start_ms = window_start_ms(user, now_ms, self._config)
            self._ends[user, start_ms] = start_ms + self._config.window_ms
        return UserAction(
            event_id=f"event-{self.sent:012d}",
            user_id=user,
            action=ActionType.CART if high_value else ActionType.CLICK,
            event_time_ms=now_ms,
            item_id=slate.slate[0].item_id if slate else self._rng.choice(self._items).item_id,
            request_id=slate.request_id if slate else None,
        )

    def _slate(self, user: str, now_ms: int) -> Impression:
        shown = self._rng.sample(self._items, SLATE_ITEMS)
        return Impression(
            request_id=f"request-{self.sent:012d}",
            user_id=user,
            scenario="home",
            served_ms=now_ms,
            generation=1,
            policy_version=1,
            index_offset=0,
            history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
            slate=[
                SlateItem(
                    item_key=item_key_of(item.item_id),
                    item_id=item.item_id,
                    sid=[0, 0, 0],
                    logprobs=[-1.0, -1.0, -1.0],
                    score=-3.0,
                    position=position,
                    slot=Slot.TOP,
                )
                for position, item in enumerate(shown)
            ],
            beams=50,
        )
