"""Who may do what, decided without a socket."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from uuid6 import uuid7

from broker.embedded.admission import check_connect
from broker.embedded.limits import Limits
from broker.embedded.packets import Connect
from broker.errors import ConnectRefused
from broker.rights import rights_of
from tensorguard.pki.identity import AgentIdentity, Peer, ServiceIdentity

SOON = datetime(2030, 1, 1, tzinfo=UTC)
AGENT = AgentIdentity("test.example", "hospital-a", uuid7())
HUB = ServiceIdentity("test.example", "hub")


def connect(client_id: str, **asked: object) -> Connect:
    usual: dict[str, object] = {
        "client_id": client_id,
        "clean_session": True,
        "keep_alive_s": 60,
        "protocol": ("MQTT", 4),
        "will_topic": None,
        "will_payload": b"",
        "will_qos": 0,
        "will_retain": False,
    }
    return Connect(**(usual | asked))  # type: ignore[arg-type] # the names are Connect's own


def refusal(client_id: str, identity: AgentIdentity | ServiceIdentity, **asked: object) -> str:
    peer = Peer(identity, 1, "00", SOON)
    with pytest.raises(ConnectRefused) as refused:
        check_connect(connect(client_id, **asked), peer, rights_of(identity), Limits())
    return refused.value.message


def test_an_agents_rights_are_its_own_topics_only() -> None:
    rights = rights_of(AGENT)
    other = UUID(int=AGENT.agent_id.int ^ 1)
    assert rights.may_publish(f"tg/v1/hospital-a/{AGENT.agent_id}/up/event")
    assert not rights.may_publish(f"tg/v1/hospital-a/{other}/up/event")
    assert not rights.may_publish(f"tg/v1/hospital-a/{AGENT.agent_id}/down/ack")
    assert rights.subscribe == {
        f"tg/v1/hospital-a/{AGENT.agent_id}/down/#",
        "tg/v1/hospital-a/all/down/#",
    }


def test_a_hub_speaks_down_and_hears_up() -> None:
    rights = rights_of(HUB)
    assert rights.may_publish(f"tg/v1/hospital-a/{AGENT.agent_id}/down/ack")
    assert rights.may_publish("tg/v1/hospital-a/all/down/config")
    assert not rights.may_publish(f"tg/v1/hospital-a/{AGENT.agent_id}/up/event")
    assert rights.subscribe == {"tg/v1/+/+/up/+"}


def test_no_other_service_has_any_right() -> None:
    with pytest.raises(ConnectRefused, match="not-a-hub"):
        rights_of(ServiceIdentity("test.example", "api"))


@pytest.mark.parametrize("client_id", ["hubris", "hu", "", "agent"])
def test_a_hubs_client_id_begins_with_its_name(client_id: str) -> None:
    assert refusal(client_id, HUB) == "foreign-client-id"


def test_a_client_id_in_another_spelling_is_foreign() -> None:
    assert refusal(AGENT.common_name.upper(), AGENT) == "foreign-client-id"


def test_a_hub_has_no_will() -> None:
    assert refusal("hub-1", HUB, will_topic="tg/v1/hospital-a/all/down/config") == "foreign-will"


def test_the_will_that_an_agent_may_have_is_taken_as_it_is() -> None:
    topic = f"tg/v1/hospital-a/{AGENT.agent_id}/up/will"
    asked = connect(AGENT.common_name, will_topic=topic, will_payload=b"bye", will_qos=1)
    will = check_connect(asked, Peer(AGENT, 1, "00", SOON), rights_of(AGENT), Limits())
    assert will is not None
    assert (will.topic, will.payload, will.qos) == (topic, b"bye", 1)
