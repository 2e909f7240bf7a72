"""Semantic versions compare as semver.org orders them."""

import itertools

import pytest

from tensorguard.tgsp.versions import is_older, is_version

ORDERED = [
    "0.0.1",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.2.0",
    "1.10.0",
    "10.0.0",
]


def test_versions_have_the_order_that_semver_org_gives() -> None:
    for first, second in itertools.combinations(ORDERED, 2):
        assert is_older(first, second)
        assert not is_older(second, first)


def test_build_metadata_has_no_rank() -> None:
    assert not is_older("1.0.0+a", "1.0.0+b")
    assert not is_older("1.0.0+b", "1.0.0+a")


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3 ", "1.2.3\n", "٣.1.2"]
)
def test_other_texts_are_no_versions(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(ValueError, match="not a semantic version"):
        is_older(text, "1.0.0")
