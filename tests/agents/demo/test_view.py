import io

from rich.console import Console

from agents.demo.edge_client import ClientCounts
from agents.demo.live import FirstEvents, live_rows
from agents.demo.observer import Seen, note
from agents.demo.view import DemoView
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.codec import encode
from schemas.instructions import InstructionKind, InstructionTrigger, ReasoningInstruction


def lines_of(buffer: io.StringIO) -> list[str]:
    return [line.split(" s  ", 1)[1] for line in buffer.getvalue().splitlines()]


def test_without_a_terminal_a_stage_is_at_most_five_plain_lines() -> None:
    buffer = io.StringIO()
    view = DemoView(Console(file=buffer, width=200))
    with view.stages():
        stage = view.begin("training", 100)
        for done in range(101):
            stage.advance_to(done, f"loss {done}")
    assert lines_of(buffer) == [
        "training ...",
        "training: 25 %  loss 25",
        "training: 50 %  loss 50",
        "training: 75 %  loss 75",
        "training: 100 %  loss 100",
    ]


def test_with_a_terminal_the_panel_holds_the_rows() -> None:
    buffer = io.StringIO()
    view = DemoView(Console(file=buffer, width=100, force_terminal=True))
    with view.live("live", lambda: [("windows", "3 closed")]) as draw:
        draw()
    assert "3 closed" in buffer.getvalue()


def test_the_first_window_is_told_once() -> None:
    buffer = io.StringIO()
    first = FirstEvents(DemoView(Console(file=buffer, width=200)), {})
    seen = Seen()
    first.say_new(seen)
    note(seen, topics.INSTRUCTION_TRIGGERS, encode(TRIGGER))
    first.say_new(seen)
    first.say_new(seen)
    assert lines_of(buffer) == ['a window of u closed: search "brolly"']


def action(kind: ActionType, query: str | None = None) -> UserAction:
    return UserAction(event_id="e", user_id="u", action=kind, event_time_ms=1, query=query)


TRIGGER = InstructionTrigger(
    trigger_id="u:0",
    user_id="u",
    window_start_ms=0,
    window_end_ms=5_000,
    actions=[action(ActionType.SEARCH, "brolly")],
)


def test_repeated_records_count_once_and_the_newest_is_shown() -> None:
    seen = Seen()
    instruction = ReasoningInstruction(
        instruction_id="u:0",
        trigger_id="u:0",
        user_id="u",
        generation=1,
        kind=InstructionKind.QUERY_REWRITE,
        text="wants umbrellas",
        vector=b"",
        encoder_id="e",
        as_of_ms=5_000,
        created_ms=5_100,
        reasoner="local",
    )
    for topic, record in (
        (topics.INSTRUCTION_TRIGGERS, TRIGGER),
        (topics.INSTRUCTION_TRIGGERS, TRIGGER),
        (topics.INSTRUCTIONS, instruction),
    ):
        note(seen, topic, encode(record))
    rows = dict(live_rows(ClientCounts(sent=7, acknowledged=6), seen))
    assert rows["windows"] == "1 closed"
    assert rows["instructions"] == "1 written"
    assert rows[""] == "wants umbrellas"
    assert rows["actions"] == "7 sent, 6 acknowledged by Kafka"
