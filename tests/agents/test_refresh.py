"""The daily refresh: every active user once, at its pace, never ahead of a real trigger."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agents.refresh import Refresh, refresh_of
from agents.settings import RefreshConfig
from schemas.instructions import InstructionTrigger
from streams.redis_refresh import Page, RefreshProgress
from streams.windows import WindowConfig, window_start_ms

NOW_MS = 1_767_225_600_000
WINDOWS = WindowConfig(window_ms=1_000, grace_ms=100)
CONFIG = RefreshConfig(users_per_second=10, active_within_ms=60_000, page=2)
USERS = [f"user-{n}" for n in range(9)]


class Killed(Exception):
    """The process ends here."""


class Walk:
    """Users in pages, as Redis keeps them; `newest_ms` tells when each was last active."""

    def __init__(self, newest_ms: dict[str, int]) -> None:
        self.newest_ms = newest_ms
        self.kept: RefreshProgress | None = None
        self.server = "first"

    async def progress(self) -> RefreshProgress | None:
        return self.kept

    async def save(self, progress: RefreshProgress) -> None:
        self.kept = progress

    async def finish(self) -> None:
        self.kept = None

    async def page(self, node: int, cursor: int, count: int) -> Page:
        assert node == 0
        users = list(self.newest_ms)
        following = cursor + count if cursor + count < len(users) else 0
        return Page(
            server=self.server,
            cursor=following,
            keys=len(users[cursor : cursor + count]),
            keys_there_are=len(users),
            users=users[cursor : cursor + count],
        )

    async def newest_before(
        self, users: Sequence[str], times_ms: Sequence[int]
    ) -> list[int | None]:
        newest = [self.newest_ms[user] for user in users]
        return [at if at < time_ms else None for at, time_ms in zip(newest, times_ms, strict=True)]


class Run:
    """One process: what it sent, and a clock that only its pauses move."""

    def __init__(self, walk: Walk, *, ends_after: int = 1_000) -> None:
        self.sent: list[InstructionTrigger] = []
        self.pauses_s = 0.0
        self._ends_after = ends_after
        self.job = Refresh(
            config=CONFIG,
            windows=WINDOWS,
            store=walk,
            send=self._send,
            now_ms=lambda: NOW_MS,
            monotonic_s=lambda: self.pauses_s,
            sleep=self._sleep,
        )

    @property
    def users(self) -> list[str]:
        return [one.user_id for one in self.sent]

    async def _send(self, refreshes: Sequence[InstructionTrigger]) -> None:
        for refresh in refreshes:
            if len(self.sent) == self._ends_after:
                raise Killed
            self.sent.append(refresh)

    async def _sleep(self, pause_s: float) -> None:
        self.pauses_s += pause_s


def nothing(progress: RefreshProgress, keys: int) -> None:
    """No progress bar."""


@given(st.integers(0, 9))
async def test_a_run_that_is_killed_anywhere_and_resumed_leaves_no_active_user_out(
    ends_after: int,
) -> None:
    walk = Walk(dict.fromkeys(USERS, NOW_MS - 30_000))
    first, second = Run(walk, ends_after=ends_after), Run(walk)
    try:
        await first.job.run(nothing)
    except Killed:
        done = await second.job.run(nothing)
        assert done.users == len(USERS)
        assert len(first.sent) + len(second.sent) <= len(USERS) + CONFIG.page  # it did go on
    assert set(first.users + second.users) == set(USERS)
    assert walk.kept is None


async def test_a_cursor_of_a_server_that_was_started_anew_is_not_believed() -> None:
    walk = Walk(dict.fromkeys(USERS, NOW_MS - 30_000))
    walk.kept = RefreshProgress(server="gone", begun_ms=NOW_MS, cursor=6, keys=6, users=6)
    run = Run(walk)
    assert (await run.job.run(nothing)).users == len(USERS)
    assert run.users == USERS


async def test_restart_begins_at_the_first_user_although_a_run_was_cut() -> None:
    walk = Walk(dict.fromkeys(USERS, NOW_MS - 30_000))
    walk.kept = RefreshProgress(server="first", begun_ms=NOW_MS, cursor=6, keys=6, users=6)
    run = Run(walk)
    await run.job.run(nothing, restart=True)
    assert run.users == USERS


async def test_only_who_acted_lately_and_before_the_refreshs_end_is_refreshed() -> None:
    walk = Walk({"now": NOW_MS - 1, "lately": NOW_MS - 30_000, "long ago": NOW_MS - 70_000})
    run = Run(walk)
    assert (await run.job.run(nothing)).users == 1
    assert run.users == ["lately"]


async def test_the_pace_is_kept() -> None:
    run = Run(Walk(dict.fromkeys(USERS, NOW_MS - 30_000)))
    await run.job.run(nothing)
    assert run.pauses_s == len(USERS) / CONFIG.users_per_second


@given(
    st.text("ab:é", min_size=1, max_size=8),
    st.integers(10**12, 2 * 10**12),
    st.integers(1, 600_000),
    st.integers(0, 60_000),
    st.booleans(),
)
def test_a_refresh_ends_before_every_window_that_may_still_close(
    user: str, now_ms: int, window_ms: int, grace_ms: int, stagger: bool
) -> None:
    windows = WindowConfig(window_ms=window_ms, grace_ms=grace_ms, stagger=stagger)
    refresh = refresh_of(user, now_ms, windows)
    assert refresh.window_end_ms <= now_ms - window_ms - grace_ms
    assert refresh.window_end_ms > now_ms - 2 * window_ms - grace_ms  # and no earlier than needed
    assert window_start_ms(user, refresh.window_start_ms, windows) == refresh.window_start_ms
    assert refresh.actions == []
