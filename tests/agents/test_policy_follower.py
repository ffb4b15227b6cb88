"""Which announcement the edge follows: the newest of its line, none of a fenced writer."""

from msgspec.structs import replace

from agents.policy_follower import PolicyFollower
from schemas.codec import encode
from schemas.policies import PolicyPublished
from streams.connections import KafkaConfig
from streams.log_reader import LogRecord
from tests.agents.edge.edge_world import announced


def record(value: bytes | None, offset: int = 0) -> LogRecord:
    return LogRecord(offset=offset, key=b"default", value=value, timestamp_ms=0)


class Following:
    """A follower and what it prepared."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.follower = PolicyFollower(KafkaConfig(), self._prepare)

    async def _prepare(self, policy: PolicyPublished) -> None:
        assert self.follower.current != policy, "used before it is prepared"
        self.prepared.append(policy.stable_version)

    async def see(self, *policies: PolicyPublished) -> int | None:
        for policy in policies:
            await self.follower.observe(record(encode(policy)))
        current = self.follower.current
        return current.stable_version if current else None


async def test_the_newest_announcement_is_prepared_before_it_is_used() -> None:
    following = Following()
    assert await following.see(announced(1), announced(2)) == 2
    assert following.prepared == [1, 2]


async def test_a_roll_back_is_an_announcement_like_any_other() -> None:
    assert await Following().see(announced(1), announced(2), announced(1)) == 1


async def test_a_fenced_writer_and_another_line_are_not_followed() -> None:
    fenced = replace(announced(8), epoch=1)
    other = replace(announced(9), line="experiment", epoch=5)
    assert await Following().see(replace(announced(2), epoch=2), fenced, other) == 2


async def test_reading_the_log_anew_prepares_nothing_twice() -> None:
    following = Following()
    await following.see(announced(1), announced(1))
    assert following.prepared == [1]


async def test_a_tombstone_and_unreadable_bytes_change_nothing() -> None:
    following = Following()
    await following.see(announced(3))
    await following.follower.observe(record(None))
    await following.follower.observe(record(b"{broken"))
    assert following.follower.current == announced(3)
