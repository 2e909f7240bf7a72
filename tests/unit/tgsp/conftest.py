"""Fixtures of the package format's tests."""

from pathlib import Path

import pytest

from tests.unit.tgsp.builders import Forge


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path)
