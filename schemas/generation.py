"""One call of the generator: the edge fills this record, the Triton model's tensors mirror it."""

from msgspec import Struct

from schemas.errors import OxygenRecError
from schemas.impressions import HistoryFeatures


class GeneratorUnavailable(OxygenRecError):
    """The generator is gone, late, full or lacks the version; the caller answers degraded."""

    def __init__(self, *, cause: str, version: int, detail: str) -> None:
        self.cause = cause
        self.version = version
        super().__init__(f"generator {cause} for policy version {version}: {detail}")


class BadGenerationRequest(OxygenRecError):
    """One request the generator refuses; those batched with it are answered."""

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"field {field}: found {found}, wanted {wanted}")


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """What to decode for.

    `instruction` holds fp16 numbers or is None (the learnable default is used).
    """

    scenario: str
    history: HistoryFeatures
    beams: int
    trigger_key: int | None = None
    instruction: bytes | None = None
    exclude_keys: list[int] = []


class GeneratedItem(Struct, frozen=True, kw_only=True):
    """One item of a beam: the SID and its per-code `legal` log-probs.

    `score = sum(logprobs) + log P(item | SID) + table_term`; the last is what a table re-ranker
    added (0 without one), which the log-probs do not know.
    """

    item_key: int
    sid: list[int]
    logprobs: list[float]
    score: float
    table_term: float = 0.0


class GenerationResponse(Struct, frozen=True, kw_only=True):
    """Items by falling score, and the version that answered.

    The version is stamped by the model itself, never by the caller.
    """

    items: list[GeneratedItem]
    generation: int
    policy_version: int
    index_offset: int
