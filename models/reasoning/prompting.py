"""From a brief to the messages of a chat model, and from its answer to an instruction's text.

The texts are files beside this one: `prompts/rules.txt` for every window, and one file a kind. The
brief is data between two marks. It cannot close them: inside JSON, "<" and ">" are written as
escapes. The answer is checked against a schema and is text, whatever was typed into a title.
"""

from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from models.reasoning.brief import Brief
from models.reasoning.plain_text import plain
from schemas.errors import OxygenRecError
from schemas.instructions import InstructionKind

MAX_TEXT = 400  # what the local reasoner may write too; the prompt asks for 300


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model must answer with."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class AnswerRefused(OxygenRecError):
    """An answer that is no instruction; `reason` is `malformed` or `schema`."""

    def __init__(self, *, reason: str, found: str) -> None:
        self.reason = reason
        super().__init__(
            f'the model\'s answer is refused ({reason}): found {found}, wanted {{"text": "..."}}'
            f" with 1 to {MAX_TEXT} characters; look at the prompts and the model"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The two messages of a call: our rules, and the task with the data."""

    system: str
    user: str


class Prompts:
    """The prompt files, read once."""

    def __init__(self) -> None:
        folder = files("models.reasoning").joinpath("prompts")
        self._rules = folder.joinpath("rules.txt").read_text(encoding="utf-8").strip()
        self._tasks = {
            kind: folder.joinpath(f"{kind.value}.txt").read_text(encoding="utf-8").strip()
            for kind in InstructionKind
        }

    @property
    def version(self) -> str:
        """8 hexadecimal digits that change with any file: they travel in `reasoner`."""
        words = "\0".join([self._rules, *self._tasks.values()])
        return blake2b(words.encode(), digest_size=4).hexdigest()

    def of(self, kind: InstructionKind, brief: Brief) -> Prompt:
        """Returns the messages for one window."""
        data = msgspec.json.encode(brief).decode()
        data = data.replace("<", "\\u003c").replace(">", "\\u003e")
        return Prompt(system=self._rules, user=f"{self._tasks[kind]}\n\n<data>\n{data}\n</data>")


def answer_schema() -> dict[str, Any]:
    """Returns the JSON Schema of `Answer`, for servers that constrain what a model can say."""
    _, components = msgspec.json.schema_components([Answer])
    described = components["Answer"]
    return {key: value for key, value in described.items() if key not in {"title", "description"}}


def text_of(answer: str) -> str:
    """Returns the text of a model's answer, on one line. Raises `AnswerRefused`."""
    try:
        found = msgspec.json.decode(answer, type=Answer)
    except msgspec.ValidationError as error:
        raise AnswerRefused(reason="schema", found=str(error)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise AnswerRefused(reason="malformed", found=str(error)) from error
    text = plain(found.text, MAX_TEXT)
    if not text:
        raise AnswerRefused(reason="schema", found="a text without words")
    return text
