"""Why a language model gave no answer. Apart from the client, which takes a second to import."""

from enum import StrEnum

from schemas.errors import OxygenRecError


class ChatFault(StrEnum):
    """The causes, as metrics name them."""

    BUDGET = "budget"  # the minute's tokens are spent; nothing was sent
    DEADLINE = "deadline"
    RATE_LIMITED = "rate_limited"  # 429 to the last attempt
    SERVER_ERROR = "server_error"  # 5xx to the last attempt
    CONNECTION = "connection"  # refused, reset, or closed before the reply ended
    REFUSED = "refused"  # another 4xx: the same request would be refused again
    BAD_REPLY = "bad_reply"  # 200 with something that is no chat completion
    TRUNCATED = "truncated"  # the token limit cut the answer


RETRIED = frozenset({ChatFault.RATE_LIMITED, ChatFault.SERVER_ERROR, ChatFault.CONNECTION})


class ChatFailed(OxygenRecError):
    """A call without an answer."""

    def __init__(self, *, fault: ChatFault, host: str, model: str, detail: str) -> None:
        self.fault = fault
        self.host = host
        super().__init__(
            f"{host}: no answer of model {model} ({fault.value}): {detail};"
            " see `chat.*` in `oxygenrec config` and the server's log"
        )
