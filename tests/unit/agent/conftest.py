import pytest

from tests.unit.agent.builders import Bench, Signers


@pytest.fixture(scope="session")
def signers() -> Signers:
    return Signers()


@pytest.fixture
def bench(signers: Signers) -> Bench:
    return Bench(signers)
