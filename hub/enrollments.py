"""Devices that ask to join with their manufacturer's certificate, which a front vouches for.

Each in a transaction of its own, before the batch's: a refusal takes nothing along, and the same
request, should the batch be stored again, gets the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

import structlog

from hub.downlink import Downlinks
from tensorguard.pki.errors import PkiError
from tensorguard.protocol import codec
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.messages import (
    DeviceEnrollRequest,
    Enrolled,
    EnrollmentPending,
    FrontEnroll,
    MqttAddress,
)
from tensorguard.protocol.messages import EnrollmentRefused as Refusal
from tensorguard.services.enrollment.device_enrollment import enroll_device
from tensorguard.services.enrollment.enrollment_failures import EnrollmentFailures
from tensorguard.services.errors import EnrollmentRefused
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.engine import SessionMaker

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeviceEnrollments:
    """Answers devices; `mqtt` and `device_url` are where they find the platform afterwards."""

    sessions: SessionMaker
    keyring: Keyring
    mqtt: MqttAddress
    device_url: str
    failures: EnrollmentFailures = field(default_factory=EnrollmentFailures)

    async def answer(
        self, requests: Sequence[FrontEnroll], downlinks: Downlinks, now: datetime
    ) -> None:
        """Enrol each device or say why not; of several requests of a device the last one counts."""
        for request in {one.certificate: one for one in requests}.values():
            device = sha256(request.certificate).hexdigest()
            answer: Enrolled | EnrollmentPending | Refusal
            try:
                answer = await self._enroll(request, now)
            except (EnrollmentRefused, PkiError, ProtocolError) as error:
                self.failures.count(error.code, request.peer.rpartition(":")[0], now)
                hint = getattr(error, "hint", "")
                answer = Refusal(code=error.code, detail=error.message, hint=hint)
            log.info("device_answered", status=answer.status, code=getattr(answer, "code", None))
            downlinks.to_device(device, answer)

    async def _enroll(self, request: FrontEnroll, now: datetime) -> Enrolled | EnrollmentPending:
        asked = codec.decode(DeviceEnrollRequest, request.request)
        async with self.sessions() as session, session.begin():
            return await enroll_device(
                session,
                self.keyring,
                request.certificate,
                asked,
                mqtt=self.mqtt,
                device_url=self.device_url,
                now=now,
            )

    async def tell_failures(self, now: datetime) -> None:
        """Write the refusals of past minutes into the ledger."""
        async with self.sessions() as session, session.begin():
            written = await self.failures.flush(session, now=now)
        self.failures.forget(written)
