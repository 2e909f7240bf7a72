"""A trust bundle on its way to its signatures: a file that travels to where the root keys are."""

from datetime import datetime
from typing import Literal, Self

import msgspec

from tensorguard.pki.bundle import Quorum, count_signatures, read_bundle
from tensorguard.pki.errors import BadBundle
from tensorguard.protocol import envelope
from tensorguard.protocol.messages import TrustBundle

LIMIT_BYTES = 3 * envelope.MAX_ENVELOPE_BYTES


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    draft: Literal["tensorguard-trust-bundle/1"]
    current: msgspec.Raw
    envelope: msgspec.Raw


class Draft:
    """The bundle that is believed now, and the one that is to follow with the signatures so far.

    The current one travels along so that whoever signs can see what would change, and whose
    signatures are missing, without a connection to the platform.
    """

    def __init__(self, current: bytes, envelope: bytes) -> None:
        """Raises: BundleRefused, EnvelopeRefused, MessageTooLarge."""
        self.current_envelope, self.envelope = current, envelope
        self.current: TrustBundle = read_bundle(current)
        self.following: TrustBundle = read_bundle(envelope)

    @classmethod
    def of(cls, current: bytes, following: TrustBundle) -> Self:
        """A draft that nobody has signed yet. Raises: BundleRefused."""
        return cls(current, envelope.sign(following, []))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises: BundleRefused, EnvelopeRefused, MessageTooLarge."""
        if len(raw) > LIMIT_BYTES:
            raise BadBundle(f"a draft of {len(raw)} bytes; the limit is {LIMIT_BYTES}")
        try:
            file = msgspec.json.decode(raw, type=_File)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadBundle(
                f"this is no draft of a trust bundle: {str(error)[:200]}",
                hint="Make one with 'tensorguard trust draft --out FILE'.",
            ) from None
        # Without the file's line breaks, as the agents are to get it.
        return cls(*(envelope.countersign(bytes(one), []) for one in (file.current, file.envelope)))

    def to_bytes(self) -> bytes:
        """The file."""
        file = _File(
            "tensorguard-trust-bundle/1",
            msgspec.Raw(self.current_envelope),
            msgspec.Raw(self.envelope),
        )
        return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"

    def sign(self, signer: envelope.Signer) -> "Draft":
        """The draft with one more signature, of a key that counts.

        Raises: BadBundle where neither bundle names the key.
        """
        roots = {key.kid for one in (self.current, self.following) for key in one.keys.root}
        if signer.kid not in roots:
            raise BadBundle(
                f"{signer.kid} is a root key neither of bundle {self.current.version}"
                f" nor of bundle {self.following.version}: its signature counts for nothing",
                hint="Sign with a key that the draft names, or draft again with --add-root.",
            )
        return Draft(self.current_envelope, envelope.countersign(self.envelope, [signer]))

    def quorums(self, now: datetime) -> tuple[Quorum, Quorum]:
        """Whose signatures are there, of the current root keys and of the new ones.

        Raises: EnvelopeRefused where a signature is bad.
        """
        return count_signatures(self.current, self.envelope, now)
