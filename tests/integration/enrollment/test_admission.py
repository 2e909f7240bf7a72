"""Admission: who waits for an operator, what a decision does, and what release means."""

import asyncio
import collections
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tensorguard.pki.identity import key_sha256
from tensorguard.protocol.messages import Enrolled, EnrollmentPending
from tensorguard.services.enrollment import enrollment_batch
from tensorguard.services.enrollment.admission import (
    MOST_AT_ONCE,
    AgentNotPending,
    AgentNotReleasable,
    approve_agent,
    decide_agents,
    reject_agent,
    release_agent,
)
from tensorguard.services.enrollment.applicants import check_request
from tensorguard.services.enrollment.enrollment import enroll_all
from tensorguard.services.enrollment.tokens import revoke_token
from tensorguard.services.errors import (
    EnrollmentRejected,
    Invalid,
    KeyAlreadyEnrolled,
    TokenExhausted,
    TooManyPending,
    UnknownToken,
)
from tensorguard.services.fleets.agents import AgentNotFound
from tensorguard.services.revocation.revocations import revoke_agent
from tests.integration.enrollment.builders import MQTT, NOW, OPERATOR, PEER, Device, Platform


async def waiting_agent(platform: Platform, device: Device, join: str) -> UUID:
    answer = await platform.enroll(device.request(join))
    assert isinstance(answer, EnrollmentPending)
    return answer.agent_id


async def approve(platform: Platform, agent_id: UUID) -> None:
    async with platform.maker.begin() as session:
        await approve_agent(session, agent_id, by=OPERATOR, now=NOW)


async def reject(platform: Platform, agent_id: UUID, reason: str = "not ours") -> None:
    async with platform.maker.begin() as session:
        await reject_agent(session, agent_id, reason=reason, by=OPERATOR, now=NOW)


async def release(platform: Platform, agent_id: UUID) -> None:
    async with platform.maker.begin() as session:
        await release_agent(session, agent_id, reason="repaired", by=OPERATOR, now=NOW)


async def revoke(platform: Platform, agent_id: UUID) -> None:
    async with platform.maker.begin() as session:
        await revoke_agent(session, agent_id, reason="stolen", by=OPERATOR, now=NOW)


def status(platform: Platform, agent_id: UUID) -> str:
    return str(platform.rows("SELECT status FROM agents WHERE id = %s", agent_id)[0][0])


async def test_an_approved_device_gets_its_certificate_when_it_asks_again(
    platform: Platform,
) -> None:
    token, device = await platform.token(approval="manual"), Device()
    agent_id = await waiting_agent(platform, device, token.join)
    assert len(platform.events("agent.pending")) == 1

    await approve(platform, agent_id)

    (approved,) = platform.events("agent.approved")
    assert str(OPERATOR.id) in approved
    assert platform.events("agent.enrolled") == []
    answers = await asyncio.gather(*(platform.enroll(device.request(token.join)) for _ in range(4)))
    assert isinstance(answers[0], Enrolled)
    assert answers[0].agent_id == agent_id
    assert all(answer == answers[0] for answer in answers)
    assert len(platform.events("agent.enrolled")) == 1
    assert platform.stored()["certificates"] == 1


async def test_a_rejected_device_is_told_the_reason_and_its_keys_stay_refused(
    platform: Platform,
) -> None:
    token, device = await platform.token(approval="manual", max_uses=5), Device()
    agent_id = await waiting_agent(platform, device, token.join)
    await reject(platform, agent_id, "not on the list")
    with pytest.raises(EnrollmentRejected, match="not on the list"):
        await platform.enroll(device.request(token.join))
    other = await platform.token()
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(device.request(other.join))
    (entry,) = platform.events("agent.rejected")
    assert "not on the list" in entry
    assert platform.stored()["certificates"] == 0


async def test_a_decision_is_made_once(platform: Platform) -> None:
    token = await platform.token(approval="manual", max_uses=5)
    first, second = [await waiting_agent(platform, Device(), token.join) for _ in range(2)]
    await approve(platform, first)
    await reject(platform, second)
    for agent_id in (first, second):
        with pytest.raises(AgentNotPending):
            await approve(platform, agent_id)
        with pytest.raises(AgentNotPending):
            await reject(platform, agent_id)
    with pytest.raises(AgentNotFound):
        await approve(platform, uuid4())
    assert (status(platform, first), status(platform, second)) == ("active", "rejected")


async def test_of_an_approval_and_a_rejection_at_the_same_time_one_happens(
    platform: Platform,
) -> None:
    token = await platform.token(approval="manual", max_uses=20)
    for _ in range(5):
        agent_id = await waiting_agent(platform, Device(), token.join)
        made = await asyncio.gather(
            *(approve(platform, agent_id), reject(platform, agent_id)),
            *(approve(platform, agent_id), reject(platform, agent_id)),
            return_exceptions=True,
        )
        assert collections.Counter(type(one) for one in made) == {
            type(None): 1,
            AgentNotPending: 3,
        }
    assert len(platform.events("agent.approved")) + len(platform.events("agent.rejected")) == 5


async def test_many_are_decided_at_once_and_those_that_cannot_be_stop_no_others(
    platform: Platform,
) -> None:
    token = await platform.token(approval="manual", max_uses=30)
    ids = [await waiting_agent(platform, Device(), token.join) for _ in range(6)]
    await approve(platform, ids[0])
    stranger = uuid4()
    async with platform.maker.begin() as session:
        made = await decide_agents(
            session, [*ids, stranger, ids[1]], reason=None, by=OPERATOR, now=NOW
        )
    assert made.decided == ids[1:]
    assert [(one.id, one.code) for one in made.failed] == [
        (ids[0], "agent-not-pending"),
        (stranger, "agent-not-found"),
    ]
    assert {status(platform, agent_id) for agent_id in ids} == {"active"}
    assert len(platform.events("agent.approved")) == 6


@pytest.mark.parametrize("count", [0, MOST_AT_ONCE + 1])
async def test_none_and_too_many_at_once_are_refused(platform: Platform, count: int) -> None:
    async with platform.maker.begin() as session:
        with pytest.raises(Invalid):
            await decide_agents(
                session, [uuid4() for _ in range(count)], reason=None, by=OPERATOR, now=NOW
            )


async def test_revoking_a_token_leaves_those_who_wait_and_admits_no_more(
    platform: Platform,
) -> None:
    token, device = await platform.token(approval="manual", max_uses=5), Device()
    agent_id = await waiting_agent(platform, device, token.join)
    async with platform.maker.begin() as session:
        await revoke_token(session, token.id, by=OPERATOR, now=NOW)
    assert isinstance(await platform.enroll(device.request(token.join)), EnrollmentPending)
    await approve(platform, agent_id)
    assert isinstance(await platform.enroll(device.request(token.join)), Enrolled)


async def test_the_longer_a_device_waits_the_less_often_it_is_asked_to_come_back(
    platform: Platform,
) -> None:
    token, device = await platform.token(approval="manual"), Device()
    found = []
    for minutes in (0, 1, 10, 600):
        answer = await platform.enroll(
            device.request(token.join), now=NOW + timedelta(minutes=minutes)
        )
        assert isinstance(answer, EnrollmentPending)
        found.append(answer.poll_after_s)
    assert found == [10, 10, 60, 300]


async def test_so_many_devices_of_a_token_wait_and_no_more(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrollment_batch, "MOST_PENDING", 3)
    token = await platform.token(approval="manual", max_uses=50)
    answers = await asyncio.gather(
        *(platform.enroll(Device().request(token.join)) for _ in range(8)), return_exceptions=True
    )
    kinds = collections.Counter(type(answer) for answer in answers)
    assert kinds == {EnrollmentPending: 3, TooManyPending: 5}
    assert platform.stored()["uses_left"] == 47
    pending = [one.agent_id for one in answers if isinstance(one, EnrollmentPending)]
    await approve(platform, pending[0])
    assert isinstance(await platform.enroll(Device().request(token.join)), EnrollmentPending)


# Release


@pytest.mark.parametrize("lost_as", ["revoked", "rejected"])
async def test_a_released_device_enrols_anew_with_its_keys_as_another_agent(
    platform: Platform, lost_as: str
) -> None:
    token, device = await platform.token(approval="manual", max_uses=5), Device()
    agent_id = await waiting_agent(platform, device, token.join)
    if lost_as == "revoked":
        await approve(platform, agent_id)
        await platform.enroll(device.request(token.join))
        await revoke(platform, agent_id)
    else:
        await reject(platform, agent_id)

    for _ in range(2):  # once more changes nothing
        await release(platform, agent_id)

    second = await waiting_agent(platform, device, token.join)
    assert second != agent_id
    await approve(platform, second)
    again = await platform.enroll(device.request(token.join))
    assert isinstance(again, Enrolled)
    assert again.agent_id == second
    assert status(platform, agent_id) == lost_as
    assert len(platform.events("agent.released")) == 1
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(Device(key=device.key).request(token.join))


async def test_an_agent_in_use_cannot_be_released(platform: Platform) -> None:
    token = await platform.token()
    answer = await platform.enroll(Device().request(token.join))
    with pytest.raises(AgentNotReleasable):
        await release(platform, answer.agent_id)
    with pytest.raises(AgentNotFound):
        await release(platform, uuid4())


async def test_the_token_of_a_revoked_agent_asks_for_approval_from_then_on(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=5)
    answer = await platform.enroll(Device().request(token.join))
    await revoke(platform, answer.agent_id)
    assert isinstance(await platform.enroll(Device().request(token.join)), EnrollmentPending)


async def test_a_key_that_was_ever_certified_does_not_enrol_until_its_agent_is_released(
    platform: Platform,
) -> None:
    token = await platform.token(max_uses=9)
    answer = await platform.enroll(Device().request(token.join))
    renewed = ec.generate_private_key(ec.SECP256R1())
    platform.run(
        "INSERT INTO certificates SELECT 'beef', agent_id, %s, certificate, not_before, not_after,"
        " issued_at, first_connected_at, superseded_at, authority_key_id FROM certificates",
        key_sha256(renewed.public_key()),
    )
    stored = platform.stored()
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(Device(key=renewed).request(token.join))
    await revoke(platform, answer.agent_id)
    with pytest.raises(KeyAlreadyEnrolled):
        await platform.enroll(Device(key=renewed).request(token.join))
    assert platform.stored()["agents"] == stored["agents"]
    await release(platform, answer.agent_id)
    assert await platform.enroll(Device(key=renewed).request(token.join))


# Many in one transaction


async def test_devices_of_one_transaction_are_judged_one_by_one(platform: Platform) -> None:
    """Twins, a spent token, an unknown one, a manual one and a known key, side by side."""
    auto, spare = await platform.token(max_uses=2), await platform.token(max_uses=5)
    manual = await platform.token(approval="manual")
    known, twin, shared = Device(), Device(), Device()
    first = await platform.enroll(known.request(spare.join))
    requests = [
        twin.request(auto.join),
        twin.request(auto.join),
        Device().request(auto.join),
        Device().request(auto.join),
        Device().request(auto.join, token="x" * 43),
        Device().request(manual.join),
        known.request(spare.join),
        Device(key=known.key).request(spare.join),
        shared.request(spare.join),
        Device(encryption_key=shared.encryption_key).request(spare.join),
    ]
    async with platform.maker.begin() as session:
        outcomes = await enroll_all(
            session,
            platform.keyring,
            [check_request(one, peer_ip=PEER) for one in requests],
            mqtt=MQTT,
            now=NOW,
        )
    assert [type(one) for one in outcomes] == [
        Enrolled,
        Enrolled,
        Enrolled,
        TokenExhausted,
        UnknownToken,
        EnrollmentPending,
        Enrolled,
        KeyAlreadyEnrolled,
        Enrolled,
        KeyAlreadyEnrolled,
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[6] == first
    left = platform.rows("SELECT id, uses_left FROM enrollment_tokens")
    assert dict(left) == {auto.id: 0, spare.id: 3, manual.id: 0}
    assert platform.stored()["agents"] == 5
    assert len(platform.events("agent.enrolled")) == 4


async def test_transactions_that_want_the_same_keys_in_another_order_make_each_agent_once(
    platform: Platform,
) -> None:
    tokens = [await platform.token(max_uses=50) for _ in range(2)]
    devices = [Device() for _ in range(12)]

    async def enrol(number: int) -> int:
        order = devices if number % 2 else devices[::-1]
        some = [check_request(one.request(tokens[number % 2].join), peer_ip=PEER) for one in order]
        async with platform.maker.begin() as session:
            outcomes = await enroll_all(session, platform.keyring, some, mqtt=MQTT, now=NOW)
        return sum(isinstance(one, Enrolled) for one in outcomes)

    enrolled = await asyncio.gather(*(enrol(number) for number in range(4)))
    # Two transactions share a token, and so the answers of it.
    assert sum(enrolled) == 2 * len(devices)
    assert platform.stored()["agents"] == len(devices)
    assert platform.stored()["uses_left"] == 100 - len(devices)
