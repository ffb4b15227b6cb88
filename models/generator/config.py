"""The generator's sizes, and the presets that name them (torch-free)."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from schemas.errors import OxygenRecError


class InstructionPosition(StrEnum):
    """Where the instruction stands in the decoder's prefix (OxygenREC, Table 5)."""

    NONE = "none"
    REPLACE_BOS = "replace_bos"
    ADD_TO_BOS = "add_to_bos"
    LEFT_OF_BOS = "left_of_bos"
    RIGHT_OF_BOS = "right_of_bos"


class GeneratorConfigInvalid(OxygenRecError):
    """Sizes that do not make a generator."""

    def __init__(self, *, field: str, found: object, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"generator config: {field}: found {found!r}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """`content_dim` is the text encoder's; `scenarios` counts them; `actions` and `gap_buckets` are
    the features'.

    With `experts` > 1 the decoder's feed-forward layers are mixtures; the encoder's stay dense.
    """

    levels: int = 3
    codes: int = 64
    content_dim: int = 256
    scenarios: int = 3
    actions: int = 9
    gap_buckets: int = 32
    width: int = 96
    heads: int = 3
    kv_heads: int | None = None  # heads of keys and values, shared by groups of queries; None: all
    feed_forward: int = 192
    gated: bool = False  # dense feed-forward: SwiGLU, else GELU between two layers
    experts: int = 1
    experts_per_token: int = 1
    encoder_layers: int = 2
    decoder_layers: int = 1
    max_history: int = 64  # positions further back than this share one embedding
    recent: int = 20  # always read; of what is older, instructions choose `retrieved` (IGR)
    retrieved: int | None = None  # None: no IGR, the whole history given is read
    dropout: float = 0.1
    instruction_position: InstructionPosition = InstructionPosition.RIGHT_OF_BOS

    def __post_init__(self) -> None:
        """Raises `GeneratorConfigInvalid`, naming the field."""
        for field, value in asdict(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise GeneratorConfigInvalid(field=field, found=value, wanted="at least 1")
        if self.width % self.heads:
            raise GeneratorConfigInvalid(
                field="width", found=self.width, wanted=f"a multiple of {self.heads} heads"
            )
        if self.heads % self.keys_values_heads:
            raise GeneratorConfigInvalid(
                field="kv_heads", found=self.kv_heads, wanted=f"a divisor of {self.heads} heads"
            )
        if self.experts_per_token > self.experts:
            raise GeneratorConfigInvalid(
                field="experts_per_token",
                found=self.experts_per_token,
                wanted=f"at most {self.experts} experts",
            )
        if not 0 <= self.dropout < 1:
            raise GeneratorConfigInvalid(field="dropout", found=self.dropout, wanted="[0, 1)")

    @property
    def keys_values_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def keys_width(self) -> int:
        """Width of the keys of all heads, and of the values."""
        return self.width // self.heads * self.keys_values_heads

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Returns the config of `to_json`. Raises `GeneratorConfigInvalid` for a field it does not
        know.
        """
        if unknown := sorted(fields.keys() - cls.__dataclass_fields__.keys()):
            known = ", ".join(cls.__dataclass_fields__)
            raise GeneratorConfigInvalid(field=unknown[0], found=fields[unknown[0]], wanted=known)
        position = fields.get("instruction_position", InstructionPosition.RIGHT_OF_BOS)
        return cls(**{**fields, "instruction_position": InstructionPosition(position)})


def _paper(layers: int, width: int, experts: int, per_token: int) -> GeneratorConfig:
    """The paper's row of layers, hidden, experts total:active; its FFN is half the hidden size.

    The paper does not say how the layers are built. SwiGLU and 16 heads sharing 4 of keys and
    values (ours) give 0.11, 0.46, 0.76, 1.56 and 2.94 B for the five names; GELU and full heads
    give 2.3 B for the one named 3.0B.
    """
    return GeneratorConfig(
        codes=8_192,
        width=width,
        heads=16,
        kv_heads=4,
        feed_forward=width // 2,
        gated=True,
        experts=experts,
        experts_per_token=per_token,
        encoder_layers=4,
        decoder_layers=layers,
        max_history=1_000,
    )


PRESETS: dict[str, GeneratorConfig] = {
    # For 2 CPU cores: 0.4 M parameters. Width 128 and a second decoder layer (0.9 M) took half as
    # much time again to decode and gained nothing on the simulated shop (HR@10 .75 against .77).
    "tiny": GeneratorConfig(),
    "0.1B": _paper(4, 1_024, 2, 1),
    "0.4B": _paper(6, 2_048, 4, 2),
    "0.7B": _paper(8, 2_048, 8, 2),
    "1.5B": _paper(8, 2_048, 24, 2),
    "3.0B": _paper(16, 2_048, 24, 2),
}
