"""The root of every error this project raises on purpose.

A leaf per cause lives beside the code that raises it; its payload is kept in attributes, its
message says what was found, what was wanted and what to do. Stream errors carry
`topic[partition]@offset`.
"""


class OxygenRecError(Exception):
    """Root of the error tree: `except OxygenRecError` catches everything we expect to go wrong."""


class InvalidRecord(OxygenRecError):
    """Bytes that are not the record a topic or an endpoint expects."""

    def __init__(self, *, reason: str, field: str, found: str, wanted: str) -> None:
        self.reason = reason
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"{reason}: field {field}: found {found}, wanted {wanted}")
