"""Logging in one place: one line an event, `time level logger event key=value ...`, on stderr.

A worker says `logger.info("window closed", extra={"user": user, "actions": 3})`.
"""

import json
import logging
import sys
import time
from dataclasses import dataclass

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
REPEAT_S = 10.0  # aiokafka says the same line hundreds of times while a broker restarts
CHATTY = ("aiokafka", "faust", "mode", "httpx", "httpcore", "httpx2", "httpcore2", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """How much is said: DEBUG, INFO, WARNING or ERROR."""

    level: str = "INFO"


class LineFormatter(logging.Formatter):
    """One structured line a record; a traceback stays inside its line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record, with its extra fields as `key=value`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {record.name} "
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        pairs = (f"{key}={_quoted(value)}" for key, value in fields.items())
        return " ".join([line + record.getMessage().replace("\n", "\\n"), *pairs])


class OncePerInterval(logging.Filter):
    """Lets the same line through once in `REPEAT_S` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether this line was not said just now."""
        key = (record.name, record.msg)
        if record.created - self._said.get(key, 0.0) < REPEAT_S:
            return False
        self._said[key] = record.created
        return True


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and not any(mark in text for mark in ' "=\n')
    return text if plain else json.dumps(text, ensure_ascii=False)


def configure_logging(config: LogConfig) -> None:
    """Sends all lines to standard error; chatty libraries from WARNING on, a line once in 10 s."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    handler.addFilter(_chatty_only(OncePerInterval()))


def _chatty_only(repeats: OncePerInterval) -> logging.Filter:
    class Chatty(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            library = record.name.partition(".")[0]
            return library not in CHATTY or repeats.filter(record)

    return Chatty()
