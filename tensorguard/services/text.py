"""Text that people and devices give: what the database holds and a terminal can show."""

import re
from typing import Final

from tensorguard.services.errors import Invalid

LINE_LIMIT: Final = 200
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_line(what: str, text: str, *, limit: int = LINE_LIMIT) -> None:
    """Refuse text that is empty, too long, or has control characters or half surrogates.

    Raises: Invalid.
    """
    if not text.strip() or len(text) > limit or _CONTROL.search(text):
        raise Invalid(f"{what} has to have 1 to {limit} characters, none of them control")
