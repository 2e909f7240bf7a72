"""Selectors: what they match, and where a bad one goes wrong."""

import pytest

from tensorguard.rollouts.errors import BadSelector
from tensorguard.rollouts.selector import Operator, Requirement, Selector, parse_selector

TAGS = {"gpu": "true", "region": "us-east", "site/rack": "7", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "gpu",
        "gpu=true",
        "gpu == true",
        "gpu=true,region in (us-east,us-west),!legacy",
        "region in ( us-west , us-east )",
        "region notin (eu)",
        "region!=eu",
        "missing!=eu",
        "missing notin (eu,us)",
        "!missing",
        "! missing",
        "site/rack=7",
        "empty=",
        "empty in (,x)",
        "empty",
    ],
)
def test_a_selector_matches_these_tags(text: str) -> None:
    assert parse_selector(text).matches(TAGS)


@pytest.mark.parametrize(
    "text",
    [
        "missing",
        "!gpu",
        "gpu=false",
        "gpu=",
        "missing=",
        "region in (eu)",
        "region notin (us-east)",
        "gpu,missing",
        "gpu!=true",
        "missing in (,)",
    ],
)
def test_a_selector_does_not_match_these_tags(text: str) -> None:
    assert not parse_selector(text).matches(TAGS)


def test_a_key_may_be_called_like_an_operator() -> None:
    assert parse_selector("in in (in),notin") == Selector(
        (Requirement("in", Operator.IN, ("in",)), Requirement("notin", Operator.EXISTS))
    )


@pytest.mark.parametrize(
    ("text", "position"),
    [
        (",", 0),
        ("gpu,", 4),
        ("gpu=true,,legacy", 9),
        ("gpu=true legacy", 9),
        ("gpu~true", 3),
        ("  gpu ; x", 6),
        ("region in us", 10),
        ("region in (us", 13),
        ("region in (us region)", 14),
        ("-gpu", 0),
        ("gpu=-true", 4),
        ("gpu=a/b", 4),
        ("!", 1),
        ("!gpu=true", 4),
        ("gpu=" + "x" * 64, 4),
        ("gpu=true,\x00", 9),
        ("x" * 2001, 2000),
        (",".join(["a"] * 51), 100),
    ],
)
def test_a_bad_selector_says_where_it_goes_wrong(text: str, position: int) -> None:
    with pytest.raises(BadSelector) as caught:
        parse_selector(text)
    assert caught.value.position == position
    assert f"character {position}" in caught.value.message
