"""The live minute: traffic, one customer's story, a new policy version, all of it shown."""

import asyncio
from collections.abc import Callable, Mapping

from agents.demo.edge_client import ClientCounts, EdgeClient
from agents.demo.observer import LogObserver, Seen
from agents.demo.source import Customer, Source
from agents.demo.story import Story, live_story
from agents.demo.summary import percentile
from agents.demo.traffic import item_ids_of, run_traffic
from agents.demo.view import DemoView, Rows
from agents.edge.recommendation_api import RecommendationAnswer
from schemas import topics
from schemas.actions import UserAction
from schemas.catalog import ItemUpsert

LONGEST_S = 120.0  # v2 serves after 35 s on two idle cores; a busy machine may take longer
AFTER_NEW_VERSION_S = 8.0  # the new version has to serve for a while
DRAW_S = 0.25
HISTORY_BATCH = 500
SHOWN_ITEMS = 5


class LiveDemo:
    """Runs the traffic of one demo until everything was seen, or time is up."""

    def __init__(self, source: Source, url: str, observer: LogObserver, view: DemoView) -> None:
        """Takes a running observer; nothing is sent yet."""
        self.story: Story | None = None
        self.edge = EdgeClient(url)
        self.items = {item.item_id: item for item in source.items()}
        self._source = source
        self._observer = observer
        self._view = view
        self._deadline_s = 0.0
        self._risen_s: float | None = None

    async def run(self, seed: int) -> None:
        """Sends the customers' newest past, then lets them live."""
        async with self.edge:
            await self._remember()
            self._deadline_s = self._view.seconds + LONGEST_S
            *others, hero = self._source.customers()
            title = "live, with windows of 5 s (5 minutes in production)"
            with self._view.live(title, self._rows) as draw:
                async with asyncio.TaskGroup() as group:
                    ended = asyncio.Event()
                    group.create_task(self._draw(draw, ended))
                    group.create_task(self._tell(hero))
                    group.create_task(run_traffic(others, self.edge, seed=seed, ended=ended))

    async def _remember(self) -> None:
        """Sends history. Its windows are long over: it reaches Redis and triggers nothing."""
        actions = self._source.remembered()
        for start in range(0, len(actions), HISTORY_BATCH):
            await self.edge.send(actions[start : start + HISTORY_BATCH])
        self._view.say(f"{len(actions)} past actions of the customers sent through the edge")

    async def _tell(self, hero: Customer) -> None:
        story = await live_story(hero, self.edge, self._source.telling)
        for label, text in story_rows(story, self.items):
            self._view.say(f"{label:14} {text}")
        self.story = story

    async def _draw(self, draw: Callable[[], None], ended: asyncio.Event) -> None:
        """Shows what happens until everything was seen; then the traffic ends."""
        first = FirstEvents(self._view, self.items)
        while not self._finished():
            first.say_new(self._observer.seen)
            draw()
            await asyncio.sleep(DRAW_S)
        ended.set()

    def _finished(self) -> bool:
        """Whether the story is told and a new version has served for a while, or time is up."""
        counts, now_s = self.edge.counts, self._view.seconds
        if self._risen_s is None and _rose(counts):
            self._risen_s = now_s
            self._view.say(f"policy version {counts.last_version} answers, under traffic")
        served = self._risen_s is not None and now_s - self._risen_s >= AFTER_NEW_VERSION_S
        return now_s >= self._deadline_s or (served and self.story is not None)

    def _rows(self) -> Rows:
        return live_rows(self.edge.counts, self._observer.seen)


class FirstEvents:
    """Says the first of each kind of event once."""

    def __init__(self, view: DemoView, items: Mapping[str, ItemUpsert]) -> None:
        self._view = view
        self._items = items
        self._said: set[str] = set()

    def say_new(self, seen: Seen) -> None:
        """Says what was seen for the first time."""
        if (trigger := seen.trigger) is not None:
            did = ", ".join(told(action, self._items) for action in trigger.actions[:3])
            self._say("window", f"a window of {trigger.user_id} closed: {did}")
        if (instruction := seen.instruction) is not None:
            said = f"an instruction for {instruction.user_id}: {instruction.text}"
            self._say("instruction", said)
        if seen.records[topics.REWARDS]:
            self._say("reward", "a slate was joined with what its customer did about it")

    def _say(self, kind: str, line: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._view.say(line)


def _rose(counts: ClientCounts) -> bool:
    first, last = counts.first_version, counts.last_version
    return first is not None and last is not None and last > first


def live_rows(counts: ClientCounts, seen: Seen) -> Rows:
    """Returns the live panel's rows."""
    p50, p99 = (percentile(counts.latencies_ms, share) for share in (0.5, 0.99))
    return [
        ("actions", f"{counts.sent} sent, {counts.acknowledged} acknowledged by Kafka"),
        (
            "slates",
            f"{counts.total} asked, {counts.failed} failed, {counts.degraded} degraded;"
            f" p50 {p50} ms, p99 {p99} ms",
        ),
        ("windows", f"{len(seen.windows)} closed"),
        ("instructions", f"{len(seen.instructed)} written"),
        ("", seen.instruction.text if seen.instruction else ""),
        ("rewards", f"{seen.records[topics.REWARDS]} slates joined with their outcomes"),
        ("policy", f"version {counts.first_version or '-'} -> {counts.last_version or '-'}"),
    ]


def story_rows(story: Story, items: Mapping[str, ItemUpsert]) -> Rows:
    """Returns what happened to the one customer that is followed."""
    cause = f"did {told(story.cause, items)}" if story.cause else "did nothing telling"
    rows = [(story.user_id, cause), ("before", slate_line(story.before, items))]
    if story.after is not None and story.after.instruction is not None:
        rows.append(("instruction", story.after.instruction.text))
    return [*rows, ("after", slate_line(story.after, items))]


def told(action: UserAction, items: Mapping[str, ItemUpsert]) -> str:
    """Returns an action in a few words."""
    item = items.get(action.item_id or "")
    what = f'"{action.query}"' if action.query else item.title[:40] if item else action.item_id
    return f"{action.action.value} {what}"


def slate_line(answer: RecommendationAnswer | None, items: Mapping[str, ItemUpsert]) -> str:
    """Returns the first items of a slate: the last part of the category, and the title."""
    if answer is None:
        return "-"
    shown = [items[item_id] for item_id in item_ids_of(answer)[:SHOWN_ITEMS] if item_id in items]
    leaves = (f"{item.title[:32]} [{item.category.rpartition(' > ')[2]}]" for item in shown)
    return " | ".join(leaves)
