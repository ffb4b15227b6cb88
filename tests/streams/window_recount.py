"""The reference of the window tests: sorts what a partition's log holds and counts it once more.

Written without the incremental structures of `streams.windows`, on purpose: two passes over lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.actions import HighValueRecord, UserAction, UserErased, Watermark
from streams.window_rows import MAX_WINDOW_ACTIONS
from streams.windows import WindowConfig, window_start_ms


@dataclass(frozen=True)
class Recount:
    """What a correct aggregator makes of a log: event ids by trigger id, and who came late."""

    triggers: dict[str, tuple[str, ...]]
    late: tuple[str, ...]


def recount(log: Sequence[HighValueRecord], config: WindowConfig) -> Recount:
    """Returns the triggers that the log's watermarks close, and the late events.

    With `trigger = first` a window's trigger holds its first event in the log, closed or not. An
    erasure takes what its user did before it out of the windows that were open then.
    """
    admitted: list[tuple[str, int, int, UserAction]] = []
    late: list[str] = []
    for place, record in enumerate(log):
        if isinstance(record, Watermark):
            continue
        if isinstance(record, UserErased):
            passed = _largest(log[:place])
            admitted = [
                entry
                for entry in admitted
                if entry[0] != record.user_id or _closed(entry[1], config, passed)
            ]
            continue
        start = window_start_ms(record.user_id, record.event_time_ms, config)
        if _closed(start, config, _largest(log[:place])):
            late.append(record.event_id)
        else:
            admitted.append((record.user_id, start, place, record))
    last = _largest(log)
    if config.trigger == "first":
        firsts: dict[str, tuple[str, ...]] = {}
        for user, start, _, record in admitted:
            firsts.setdefault(f"{user}:{start}", (record.event_id,))
        return Recount(triggers=firsts, late=tuple(late))
    triggers: dict[str, list[UserAction]] = {}
    for user, start, _, record in sorted(admitted, key=lambda entry: entry[:3]):
        if not _closed(start, config, last):
            continue
        kept = triggers.setdefault(f"{user}:{start}", [])
        if len(kept) < MAX_WINDOW_ACTIONS and record.event_id not in [a.event_id for a in kept]:
            kept.append(record)
    return Recount(
        triggers={
            trigger: tuple(a.event_id for a in sorted(kept, key=lambda a: a.event_time_ms))
            for trigger, kept in triggers.items()
        },
        late=tuple(late),
    )


def _largest(log: Sequence[HighValueRecord]) -> int | None:
    return max((r.watermark_ms for r in log if isinstance(r, Watermark)), default=None)


def _closed(start_ms: int, config: WindowConfig, watermark_ms: int | None) -> bool:
    end_ms = start_ms + config.window_ms + config.grace_ms
    return watermark_ms is not None and end_ms <= watermark_ms
