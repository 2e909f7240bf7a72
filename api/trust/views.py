"""Bodies and answers about trust."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.views import Body, View


class Signature(Body):
    """One signature of an envelope."""

    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sig: Annotated[str, Field(max_length=128)]


class Envelope(BaseModel):
    """A signed trust bundle: the DSSE envelope `envelope` of the file that was signed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payload: str
    payloadType: str  # as DSSE spells it
    signatures: Annotated[list[Signature], Field(max_length=32)]


class BundlePublish(Body):
    """The trust bundle that is to follow the newest."""

    envelope: Envelope


class CaView(View):
    """A CA, and how many active agents hold a certificate of it."""

    spki_sha256: str
    state: Literal["trusted", "issuing", "retired"]
    not_before: datetime
    not_after: datetime
    agents: int


class AgentsOfVersionView(View):
    """How many active agents believe a bundle; null: they have not said."""

    version: int | None
    agents: int


class TrustView(View):
    """The newest trust bundle, the CAs there ever were (newest first), and who believes what."""

    version: int
    issued_at: datetime
    expires_at: datetime
    root_threshold: int
    roots: list[str]
    cas: list[CaView]
    agents_by_version: list[AgentsOfVersionView]
    awaited: list[str]
    """What the platform says and this bundle does not: the next one has to be signed."""
