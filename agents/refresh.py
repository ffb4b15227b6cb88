"""The daily refresh: a new instruction for every active user, whether a window closed or not.

An instruction goes stale after 36 h, and speaks of the hour and the season it was made in. The job
walks the users that history knows and writes a trigger without actions for each active one into
`instruction-refreshes`, which the instruction writer reads when no real trigger waits. Per page:

1. read a page of users and when each was last active;
2. produce their refreshes, paced, and await the acknowledgements;
3. keep the cursor. A run that was killed goes on there: a page may come twice, no user is left out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from agents.settings import RefreshConfig
from schemas.instructions import InstructionTrigger, trigger_id_of
from streams.redis_refresh import Page, RefreshProgress
from streams.windows import WindowConfig, window_start_ms

logger = logging.getLogger(__name__)

Send = Callable[[Sequence[InstructionTrigger]], Awaitable[None]]  # returns when acknowledged
Report = Callable[[RefreshProgress, int], None]  # and how many keys there are


class RefreshStore(Protocol):
    """Where users are walked and the walk is remembered (`streams.redis_refresh`)."""

    async def progress(self) -> RefreshProgress | None: ...
    async def save(self, progress: RefreshProgress) -> None: ...
    async def finish(self) -> None: ...
    async def page(self, node: int, cursor: int, count: int) -> Page: ...
    async def newest_before(
        self, users: Sequence[str], times_ms: Sequence[int]
    ) -> list[int | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """One run; clocks are passed in (`monotonic_s` for the pace)."""

    config: RefreshConfig
    windows: WindowConfig
    store: RefreshStore
    send: Send
    now_ms: Callable[[], int]
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self, report: Report, *, restart: bool = False) -> RefreshProgress:
        """Refreshes to the end of the walk and returns how much; goes on where a run was cut.

        `restart`: from the first user all the same. Raises what store and `send` raise.
        """
        kept = None if restart else await self.store.progress()
        begun = kept or RefreshProgress(server="", begun_ms=self.now_ms())
        started_s, sent = self.monotonic_s(), 0
        while True:
            page = await self.store.page(begun.node, begun.cursor, self.config.page)
            if page.server != begun.server:
                if begun.node or begun.cursor:
                    logger.warning("Redis was started anew, or slots moved: the walk begins again")
                    begun = RefreshProgress(server=page.server, begun_ms=self.now_ms())
                    continue
                begun = replace(begun, server=page.server)
            due = await self._due(page.users)
            for refreshes in _portions(due, self.config.users_per_second):
                await self.send(refreshes)
                sent += len(refreshes)
                ahead_s = started_s + sent / self.config.users_per_second - self.monotonic_s()
                await self.sleep(max(0.0, ahead_s))
            begun = replace(
                begun,
                node=page.node,
                cursor=page.cursor,
                keys=begun.keys + page.keys,
                users=begun.users + len(due),
            )
            report(begun, page.keys_there_are)
            if page.last:
                await self.store.finish()
                return begun
            await self.store.save(begun)

    async def _due(self, users: Sequence[str]) -> list[InstructionTrigger]:
        """Returns the refreshes of those users who were active before their refresh's end."""
        now_ms = self.now_ms()
        refreshes = [refresh_of(user, now_ms, self.windows) for user in users]
        newest = await self.store.newest_before(users, [one.window_end_ms for one in refreshes])
        return [
            refresh
            for refresh, newest_ms in zip(refreshes, newest, strict=True)
            if newest_ms is not None
            and newest_ms >= refresh.window_end_ms - self.config.active_within_ms
        ]


def refresh_of(user_id: str, now_ms: int, windows: WindowConfig) -> InstructionTrigger:
    """Returns the refresh of a user: a trigger without actions, of a window that is long closed.

    It ends at or before now - window - grace, and every window that may still close ends later:
    in Redis the newer end wins, so a refresh never beats a real trigger.
    """
    start_ms = window_start_ms(user_id, now_ms - 2 * windows.window_ms - windows.grace_ms, windows)
    return InstructionTrigger(
        trigger_id=trigger_id_of(user_id, start_ms),
        user_id=user_id,
        window_start_ms=start_ms,
        window_end_ms=start_ms + windows.window_ms,
        actions=[],
    )


def _portions(due: list[InstructionTrigger], length: int) -> list[list[InstructionTrigger]]:
    """Returns at most a second's refreshes each, so that a small pace is even too."""
    return [due[at : at + length] for at in range(0, len(due), length)]
