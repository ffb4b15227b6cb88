"""The generator's sizes, and the presets that name them (torch-free).

Left out here, with the issues they belong to: mixture-of-experts feed-forward layers and the
paper's presets from 0.1B up (`tiny` is dense), instruction-guided retrieval and its Q2I loss.
"""

from dataclasses import asdict, dataclass, replace
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
    """

    levels: int = 3
    codes: int = 64
    content_dim: int = 256
    scenarios: int = 3
    actions: int = 9
    gap_buckets: int = 32
    width: int = 96
    heads: int = 3
    feed_forward: int = 192
    encoder_layers: int = 2
    decoder_layers: int = 1
    max_history: int = 64  # positions further back than this share one embedding
    dropout: float = 0.1
    instruction_position: InstructionPosition = InstructionPosition.RIGHT_OF_BOS

    def __post_init__(self) -> None:
        """Raises `GeneratorConfigInvalid`, naming the field."""
        for field, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise GeneratorConfigInvalid(field=field, found=value, wanted="at least 1")
        if self.width % self.heads:
            raise GeneratorConfigInvalid(
                field="width", found=self.width, wanted=f"a multiple of {self.heads} heads"
            )
        if not 0 <= self.dropout < 1:
            raise GeneratorConfigInvalid(field="dropout", found=self.dropout, wanted="[0, 1)")

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
        return replace(cls(**fields), instruction_position=InstructionPosition(position))


PRESETS: dict[str, GeneratorConfig] = {
    # For 2 CPU cores: 0.4 M parameters. Width 128 and a second decoder layer (0.9 M) took half as
    # much time again to decode and gained nothing on the simulated shop (HR@10 .75 against .77).
    "tiny": GeneratorConfig(),
}
