"""The windows of serving, as training needs them: `models` knows no streams."""

from collections.abc import Sequence
from functools import partial

from agents.settings import RouterConfig, Settings
from models.training.instructions import ServedWindows
from schemas.actions import UserAction
from streams.windows import WindowConfig, window_start_ms


def served_windows(settings: Settings, *, expire: bool = True) -> ServedWindows:
    """Returns window, grace, high-value actions and expiry of these settings.

    `expire` False for logs with day timestamps: between two of their actions every instruction
    would be stale, while a replay of them is not.
    """
    return ServedWindows(
        start_of=partial(_start_of, settings.windows),
        window_ms=settings.windows.window_ms,
        grace_ms=settings.windows.grace_ms,
        high_value_of=partial(_high_value_of, settings.router),
        expires_ms=settings.instructions.expires_ms if expire else None,
    )


def _high_value_of(router: RouterConfig, actions: Sequence[UserAction]) -> list[UserAction]:
    return router.high_value_table.high_value_of(actions, router.history_length)


def _start_of(config: WindowConfig, user_id: str, event_time_ms: int) -> int:
    return window_start_ms(user_id, event_time_ms, config)
