"""A trigger whose vector would be of another encoder ends the writer; it is not buried."""

import asyncio
from typing import Any, cast

import pytest

from agents.instruction_composer import Composer
from agents.instruction_writer import InstructionWriter
from agents.ports import InstructionStore
from agents.settings import InstructionConfig
from schemas.encoding import BadEncodingRequest, EncoderMismatch, EncodingFailed
from schemas.instructions import InstructionTrigger
from streams.dead_letters import Source
from streams.producer import RecordProducer

TRIGGER = InstructionTrigger(
    trigger_id="ann:1", user_id="ann", window_start_ms=0, window_end_ms=1, actions=[]
)
SOURCE = Source(topic="instruction-triggers", partition=0, offset=7, key=b"ann", value=b"{}")


class Broken:
    """A composer, a store and a consumer in one: nobody was erased, no vector can be made."""

    def __init__(self, fault: EncodingFailed) -> None:
        self.fault = fault
        self.buried: list[int] = []

    def subscribe(self, *_: Any, **__: Any) -> None:
        pass

    async def erased_ms(self, user_id: str) -> int | None:
        return None

    async def compose(self, *_: Any) -> None:
        raise self.fault

    def send(self, *record: Any, **__: Any) -> Any:
        self.buried.append(len(record))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def writer(broken: Broken) -> InstructionWriter:
    return InstructionWriter(
        InstructionConfig(),
        broken,
        cast(Composer, broken),
        cast(InstructionStore, broken),
        cast(RecordProducer, broken),
    )


async def test_another_encoder_ends_the_worker_and_buries_no_trigger() -> None:
    fault = EncoderMismatch(place="triton", found="bert-2", wanted="bert-1", remedy="load it")
    broken = Broken(fault)
    with pytest.raises(EncoderMismatch):
        await writer(broken)._write(TRIGGER, SOURCE)
    assert broken.buried == []


async def test_a_text_that_is_refused_is_a_dead_letter_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = Broken(BadEncodingRequest(field="TEXT_BYTES", found="much", wanted="less"))
    monkeypatch.setattr(asyncio, "wrap_future", lambda future: future)
    await writer(broken)._write(TRIGGER, SOURCE)
    assert len(broken.buried) == 1
