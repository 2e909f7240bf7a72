"""How a refusal looks: a code, a message, a hint, and nothing on the disk."""

from typing import Any

import pytest

from tensorguard.tgsp.errors import TgspError
from tensorguard.tgsp.reader import verify
from tests.unit.tgsp.builders import NOW, Forge


def refusal(forge: Forge, **changes: Any) -> str:
    """Open the package, which must be refused without a trace, and give the code."""
    with pytest.raises(TgspError) as caught:
        forge.open(**changes)
    assert not forge.out.exists()
    assert not [name for name in forge.list_leftovers() if name.endswith(".partial")]
    assert caught.value.message
    assert caught.value.hint
    return caught.value.code


def refusal_to_verify(forge: Forge) -> str:
    with pytest.raises(TgspError) as caught:
        verify(forge.path, forge.publishers, NOW)
    return caught.value.code
