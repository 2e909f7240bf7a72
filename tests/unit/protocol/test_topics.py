"""Topics: exactly the well-formed ones exist."""

import re
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tensorguard.protocol import topics
from tensorguard.protocol.errors import BadTopic
from tensorguard.protocol.topics import DownKind, FrontKind, FrontTopic, UpKind, UpTopic
from tests.unit.protocol.builders import AGENT_ID, OTHER_ID

# The rules once more, as one expression for each shape instead of code.
UUID_TEXT = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
FLEET = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
UP = re.compile(
    rf"tg/v1/(?:{FLEET}/{UUID_TEXT}/up/(?:heartbeat|event|progress|key-request|csr|reply|will)"
    r"|_front/[a-z0-9-]{1,64}/up/(?:connected|disconnected|denied|enroll))"
)
DOWN = re.compile(
    rf"tg/v1/(?:{FLEET}/(?:{UUID_TEXT}|all)"
    r"/down/(?:ack|desired|grant|certificate|command|config|checkpoint)"
    r"|_enroll/[0-9a-f]{64}/down/enrolled)"
)
slugs = st.from_regex(rf"\A{FLEET}\Z")
# Parts that are right, nearly right, and anything else, joined in any number.
parts = st.one_of(
    st.sampled_from(
        ["tg", "v1", "v2", "_front", "all", "up", "down", "+", "#", "", "$SYS", "$share"]
    ),
    st.sampled_from([*UpKind, *DownKind, *FrontKind, "Heartbeat", "heartbeat\n"]),
    st.sampled_from(["hospital-a", "-a", "a-", "A", "a_b", "x" * 40, "x" * 41, "front-1"]),
    st.sampled_from(
        [str(AGENT_ID), str(AGENT_ID).upper(), AGENT_ID.hex, f"{{{AGENT_ID}}}", AGENT_ID.urn]
    ),
    st.text(max_size=8),
)
lines = st.one_of(
    st.lists(parts, max_size=8).map("/".join),
    st.tuples(
        st.just("tg"),
        st.just("v1"),
        parts,
        parts,
        st.sampled_from(["up", "down"]),
        st.one_of(parts, st.sampled_from([*UpKind, *FrontKind])),
    ).map("/".join),
)


@given(lines)
@example(f"tg/v1/a/{AGENT_ID}/up/heartbeat\n")
@example(f"tg/v1/a/{AGENT_ID}\n/up/heartbeat")
@example("tg/v1/_front/front-1\n/up/denied")
@example("tg/v1/_front/front-1/up/heartbeat")
@example(f"tg/v1/_front/{AGENT_ID}/up/heartbeat")
@example(f"tg/v1/a/{AGENT_ID}/up/denied")
def test_only_well_formed_up_topics_parse_and_they_come_back_unchanged(line: str) -> None:
    if UP.fullmatch(line):
        assert str(topics.parse_up(line)) == line
    else:
        with pytest.raises(BadTopic):
            topics.parse_up(line)


@given(lines)
@example(f"tg/v1/_front/{AGENT_ID}/down/ack")
@example("tg/v1/a/all/down/ack\n")
@example(f"tg/v1/_enroll/{'0f' * 32}/down/enrolled")
@example(f"tg/v1/_enroll/{'0F' * 32}/down/enrolled")
@example(f"tg/v1/_enroll/{'0f' * 32}/down/ack")
@example(f"tg/v1/a/{'0f' * 32}/down/enrolled")
def test_only_down_topics_may_be_published_to_by_the_hub(line: str) -> None:
    assert topics.is_down(line) is (DOWN.fullmatch(line) is not None)


@given(slugs, st.uuids(), st.sampled_from(UpKind))
def test_an_agents_topic_says_who_speaks(fleet: str, agent_id: UUID, kind: UpKind) -> None:
    assert topics.parse_up(topics.up(fleet, agent_id, kind)) == UpTopic(fleet, agent_id, kind)


def test_a_fronts_topic_says_which_front_speaks() -> None:
    topic = topics.parse_up("tg/v1/_front/front-1/up/denied")
    assert topic == FrontTopic("front-1", FrontKind.DENIED)


def test_an_agent_publishes_its_seven_kinds_and_nothing_else() -> None:
    kinds = {"heartbeat", "event", "progress", "key-request", "csr", "reply", "will"}
    expected = {f"tg/v1/hospital-a/{AGENT_ID}/up/{kind}" for kind in kinds}
    assert topics.publishable("hospital-a", AGENT_ID) == expected


def test_an_agent_subscribes_its_own_and_its_fleets_down_topics_and_nothing_else() -> None:
    own, fleet = f"tg/v1/hospital-a/{AGENT_ID}/down/#", "tg/v1/hospital-a/all/down/#"
    assert topics.subscribable("hospital-a", AGENT_ID) == (own, fleet)


@given(slugs, slugs, st.uuids(), st.uuids())
def test_no_two_agents_share_a_topic(first: str, second: str, one: UUID, other: UUID) -> None:
    if (first, one) != (second, other):
        assert not topics.publishable(first, one) & topics.publishable(second, other)


def test_a_will_is_one_of_the_agents_own_topics() -> None:
    will = topics.will_topic("hospital-a", AGENT_ID)
    assert will in topics.publishable("hospital-a", AGENT_ID)
    assert will not in topics.publishable("hospital-a", OTHER_ID)


def test_what_the_hub_sends_is_what_the_agent_may_subscribe() -> None:
    own, fleet = topics.subscribable("hospital-a", AGENT_ID)
    for kind in DownKind:
        to_agent = topics.down("hospital-a", AGENT_ID, kind)
        to_fleet = topics.fleet_down("hospital-a", kind)
        assert to_agent.startswith(own.removesuffix("#"))
        assert to_fleet.startswith(fleet.removesuffix("#"))
        assert topics.is_down(to_agent)
        assert topics.is_down(to_fleet)


def test_a_device_without_an_identity_speaks_to_nobody_but_its_front() -> None:
    device = "0f" * 32
    assert topics.device_up(device) == f"tg/v1/_enroll/{device}/up/enroll"
    # It reaches a hub as a front's message alone, with the certificate that the front has verified.
    with pytest.raises(BadTopic):
        topics.parse_up(topics.device_up(device))
    assert topics.is_down(topics.device_down(device))


@pytest.mark.parametrize(
    ("slug", "good"),
    [
        ("a", True),
        ("9", True),
        ("a-b", True),
        ("x" * 40, True),
        ("x" * 41, False),
        ("", False),
        ("-a", False),
        ("a-", False),
        ("A", False),
        ("ä", False),
        ("a\n", False),
        ("a/b", False),
        ("_front", False),
        ("+", False),
    ],
)
def test_a_fleet_slug_is_a_short_lower_case_name(slug: str, good: bool) -> None:
    assert topics.is_fleet(slug) is good
