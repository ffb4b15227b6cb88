"""How a call of the text encoder fails."""

from schemas.errors import OxygenRecError


class EncodingFailed(OxygenRecError):
    """No vectors; `cause` is the label of the counters."""

    cause = "failed"


class EncoderUnavailable(EncodingFailed):
    """The encoder is gone, late or not loaded: another try may succeed."""

    def __init__(self, *, cause: str, place: str, detail: str) -> None:
        self.cause = cause
        self.place = place
        super().__init__(f"text encoder {place}: {cause}: {detail}")


class BadEncodingRequest(EncodingFailed):
    """Texts that the encoder refuses; those batched with them are answered."""

    cause = "refused"

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"field {field}: found {found}, wanted {wanted}")


class EncoderMismatch(EncodingFailed):
    """Another text encoder than the vectors beside it were made with: its points mean nothing."""

    cause = "mismatch"

    def __init__(self, *, place: str, found: str, wanted: str, remedy: str) -> None:
        self.place = place
        self.found = found
        self.wanted = wanted
        super().__init__(f"{place}: found text encoder {found}, wanted {wanted}: {remedy}")
