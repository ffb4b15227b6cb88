"""What `oxygenrec dead-letters` does: chooses letters, shows them, sends them back."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from agents.cli_kafka import InvalidOption, kafka_of, shown, time_in
from agents.log_lines import configure_logging
from agents.settings import load_settings
from schemas import topics
from schemas.dead_letters import DeadLetter, Reason, Rejection
from schemas.errors import OxygenRecError
from streams.admin import check_topics
from streams.cloud_events import rfc3339
from streams.connections import KafkaConfig
from streams.dead_letter_log import DeadLetterLog, KeptLetter, LetterFilter
from streams.dead_letter_replay import Mended, Replayer, mend
from streams.producer import RecordProducer

BATCH = 500  # sent, acknowledged and marked together
VALUE_CHARACTERS = 4_000  # of a value that `show` prints; `--json` gives all of it
FOUND_CHARACTERS = 120


class NoSuchLetter(OxygenRecError):
    """Offsets at which `dead-letters` holds no letter."""

    def __init__(self, *, offsets: Sequence[int]) -> None:
        self.offsets = tuple(offsets)
        found = ", ".join(map(str, offsets))
        super().__init__(
            f"dead-letters holds no letter at {found}: wanted a number that"
            " `oxygenrec dead-letters list` begins a line with"
        )


@dataclass(slots=True)
class Report:
    """What became of the chosen letters."""

    sent: int = 0
    refused: int = 0
    passed_over: int = 0

    def summary(self, *, dry_run: bool) -> str:
        """Returns the last line of a replay."""
        verb = "would be sent" if dry_run else "sent"
        return (
            f"{self.sent} {verb}, {self.refused} refused again,"
            f" {self.passed_over} passed over: replayed before (`show` says where to)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The letters of one broker, and the rules of its edge."""

    kafka: KafkaConfig
    scenarios: frozenset[str]

    @classmethod
    def open(cls) -> Self:
        """Returns the desk of this process's settings. Raises `BrokerSilent`, `TopicsDiffer`."""
        settings = load_settings()
        configure_logging(settings.log)
        kafka = kafka_of(settings)
        check_topics(kafka, (topics.DEAD_LETTERS,))
        return cls(kafka=kafka, scenarios=frozenset(settings.serving.scenarios))

    async def newest(self, wanted: LetterFilter, limit: int) -> list[KeptLetter]:
        """Returns the newest of the wanted letters, oldest first."""
        kept: deque[KeptLetter] = deque(maxlen=limit)
        async for letter in DeadLetterLog(self.kafka).letters(wanted):
            kept.append(letter)
        return list(kept)

    async def chosen(self, wanted: LetterFilter, limit: int) -> list[KeptLetter]:
        """Returns the oldest of the wanted letters; what was replayed does not count as one.

        Raises `NoSuchLetter` for named offsets without a letter.
        """
        kept: list[KeptLetter] = []
        fresh = 0
        async for letter in DeadLetterLog(self.kafka).letters(wanted):
            if fresh < limit:
                kept.append(letter)
                fresh += letter.replayed is None
        if fresh < limit and (gone := wanted.offsets - {letter.offset for letter in kept}):
            raise NoSuchLetter(offsets=sorted(gone))
        return kept

    def replay(
        self,
        letters: Iterable[KeptLetter],
        changes: Mapping[str, Any],
        *,
        say: Callable[[str], None],
        dry_run: bool,
    ) -> Report:
        """Sends what would be taken now, and says a line a letter. Raises `UndeliveredRecord`."""
        report = Report()
        ready: list[tuple[KeptLetter, Mended]] = []
        for kept in letters:
            if kept.replayed is not None:
                report.passed_over += 1
                continue
            result = mend(kept.letter, changes, now_ms=_now_ms(), scenarios=self.scenarios)
            if isinstance(result, Rejection):
                report.refused += 1
                say(f"{kept.offset} refused: {_why(result)}; --set FIELD=VALUE sets a field")
                continue
            ready.append((kept, result))
            if dry_run:
                say(f"{kept.offset} would go to {_aim(result)}")
        report.sent = len(ready)
        if ready and not dry_run:
            self._send(ready, changes, say)
        return report

    def _send(
        self,
        ready: Sequence[tuple[KeptLetter, Mended]],
        changes: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        with RecordProducer(self.kafka, "oxygenrec-dead-letters") as producer:
            replayer = Replayer(producer)
            for start in range(0, len(ready), BATCH):
                batch = ready[start : start + BATCH]
                places = replayer.send(batch, changes, _now_ms())
                for (kept, _), place in zip(batch, places, strict=True):
                    say(f"{kept.offset} sent to {place.topic}[{place.partition}]@{place.offset}")


def wanted(
    reasons: Sequence[Reason] | None = None,
    sources: Sequence[str] | None = None,
    since: str | None = None,
    until: str | None = None,
    offsets: Sequence[int] | None = None,
) -> LetterFilter:
    """Returns the filter of the command line's options. Raises `InvalidOption`."""
    now_ms = _now_ms()
    return LetterFilter(
        offsets=frozenset(offsets or ()),
        reasons=frozenset(reasons or ()),
        topics=frozenset(sources or ()),
        since_ms=time_in("--since", since, now_ms),
        until_ms=time_in("--until", until, now_ms),
    )


def refuse_all(asked: LetterFilter) -> None:
    """Returns when a filter names something. Raises `InvalidOption`: all is never meant."""
    if asked == LetterFilter():
        choices = "offsets, or one of --reason, --topic, --since, --until"
        raise InvalidOption(option="replay", found="nothing that chooses letters", wanted=choices)


def changes_in(options: Sequence[str] | None) -> dict[str, Any]:
    """Returns the fields to set: `price=9.5` as JSON, `city=Lima` as text.

    Raises `InvalidOption`.
    """
    changes: dict[str, Any] = {}
    for option in options or ():
        field, equals, text = option.partition("=")
        if not field or not equals:
            raise InvalidOption(option="--set", found=option, wanted="FIELD=VALUE")
        try:
            changes[field] = json.loads(text)
        except ValueError:
            changes[field] = text
    return changes


def line(kept: KeptLetter) -> str:
    """Returns one letter as a line of `list`."""
    letter, mark = kept.letter, kept.replayed
    parts = (
        f"{kept.offset:>6}",
        rfc3339(kept.append_ms),
        f"{letter.rejection.reason:16}",
        f"{source(letter):28}",
        f"{letter.worker}:",
        _why(letter.rejection),
    )
    done = f"  replayed to {mark.topic}[{mark.partition}]@{mark.offset}" if mark else ""
    return "  ".join(parts) + done


def text(kept: KeptLetter) -> str:
    """Returns one letter as lines."""
    letter, mark = kept.letter, kept.replayed
    rows = {
        "letter": f"{topics.DEAD_LETTERS}[0]@{kept.offset}, {rfc3339(kept.append_ms)}",
        "why": f"{letter.rejection.reason}: {_why(letter.rejection)}",
        "source": f"{source(letter)}, refused by {letter.worker}",
        "key": "none" if letter.key is None else shown(letter.key, FOUND_CHARACTERS),
        "bytes": str(len(letter.value)),
        "value": shown(letter.value, VALUE_CHARACTERS),
        "replayed": "no",
    }
    if mark is not None:
        place = f"{mark.topic}[{mark.partition}]@{mark.offset}"
        changes = ", ".join(f"{field}={value}" for field, value in mark.changes.items())
        rows["replayed"] = f"{rfc3339(mark.replayed_ms)} to {place} {changes}".rstrip()
    return "\n".join(f"{name + ':':10}{row}" for name, row in rows.items())


def as_json(kept: KeptLetter) -> str:
    """Returns one letter as one line of JSON, its bytes in base64."""
    return msgspec.json.encode(kept).decode()


def source(letter: DeadLetter) -> str:
    """Returns the place a letter's record came from."""
    return f"{letter.topic}[{letter.partition}]@{letter.offset}"


def _aim(mended: Mended) -> str:
    key = "no key" if mended.key is None else f"key {shown(mended.key, FOUND_CHARACTERS)}"
    return f"{mended.topic}, {key}: {shown(mended.value, VALUE_CHARACTERS)}"


def _why(rejection: Rejection) -> str:
    words = f"field {rejection.field}: found {rejection.found}, wanted {rejection.wanted}"
    return shown(words.encode(errors="backslashreplace"), 3 * FOUND_CHARACTERS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
