"""Words that somebody else wrote, made safe to stand inside a text of ours."""

import re
import unicodedata

LOOKED_AT = 4  # times the kept length: of a long text of control characters nothing is searched for
_SPACES = re.compile(r"\s+")


def plain(words: str, max_length: int) -> str:
    """Returns one line of at most `max_length` characters without control characters.

    Format characters (bidirectional overrides, zero width) go too; double quotes become single
    ones, because the double ones are ours.
    """
    kept = "".join(
        " " if unicodedata.category(letter)[0] in "CZ" else letter
        for letter in words[: LOOKED_AT * max_length]
    )
    return _SPACES.sub(" ", kept.replace('"', "'")).strip()[:max_length].rstrip()
