"""The rights of an agent as a NATS user, and the user's name as the session that it stands for."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from broker.errors import ConnectRefused
from broker.nats.configuration import AGENTS
from broker.nats.errors import BadEvent
from broker.nats.jwt import Permissions, User
from broker.rights import NOT_AUTHORIZED, Rights, rights_of
from broker.session import Session
from tensorguard.pki.errors import BadIdentity
from tensorguard.pki.identity import AgentIdentity, Peer, serial_text
from tensorguard.protocol.subjects import to_permissions, to_subject


def permissions_of(rights: Rights) -> Permissions:
    """Render rights as exact subjects.

    Raises: ConnectRefused for those of a hub, which is no MQTT client here.
    """
    if rights.publish is None:
        raise ConnectRefused("not-an-agent", return_code=NOT_AUTHORIZED)
    subscribe = (to_permissions(wanted) for wanted in sorted(rights.subscribe))
    return Permissions(
        publish=tuple(sorted(to_subject(topic) for topic in rights.publish)),
        subscribe=tuple(subject for subjects in subscribe for subject in subjects),
    )


def user_of(peer: Peer) -> User:
    """Return the NATS user that an agent becomes. Raises: ConnectRefused for anybody else."""
    agent = peer.identity
    if not isinstance(agent, AgentIdentity):
        raise ConnectRefused("not-an-agent", return_code=NOT_AUTHORIZED)
    return User(
        name=f"{agent.agent_id}.{agent.fleet}.{serial_text(peer.serial)}",
        account=AGENTS,
        expires_at=peer.not_after,
        permissions=permissions_of(rights_of(agent)),
    )


@dataclass(frozen=True, slots=True)
class UserName:
    """What `user_of` wrote, as servers repeat it in events and lists. Raises: BadEvent."""

    trust_domain: str
    text: str

    def session(self, address: str, admitted_at: datetime) -> Session:
        """Return the session of that user."""
        agent_id, _, rest = self.text.partition(".")
        fleet, _, serial = rest.partition(".")
        try:
            agent = AgentIdentity(self.trust_domain, fleet, UUID(agent_id))
            if not serial or serial_text(int(serial, 16)) != serial:
                raise ValueError(serial)
        except (BadIdentity, ValueError):
            raise BadEvent(f"not a user of the agents' account: {self.text[:200]!r}") from None
        return Session(agent, serial, address, admitted_at)
