"""`/device/v1`: the CA, enrollment, trust bundles; all public: the proof is in the body."""

from typing import Annotated

from fastapi import Path, Request, Response

from api.access import PUBLIC
from api.device.peer import peer_address
from api.errors import Overloaded
from api.limits import KIB, check_json, limits
from api.routing import Context, Now, Session, new_router
from tensorguard.protocol import codec
from tensorguard.protocol.messages import EnrollmentPending, EnrollRequest
from tensorguard.services.enrollment.applicants import check_request
from tensorguard.services.trust.trust import get_bundle_envelope

router = new_router("/device/v1", "device")
MAX_ENROLL_BYTES = 64 * KIB


@router.get("/ca", dependencies=[PUBLIC], response_class=Response)
async def get_ca(context: Context) -> Response:
    """Return the platform CA's certificate as PEM; who asks checks it against the join string."""
    return Response(context.keyring.ca.certificate_pem, media_type="application/x-pem-file")


@router.post("/enroll", dependencies=[PUBLIC], response_class=Response)
@limits(max_body_bytes=MAX_ENROLL_BYTES)
async def enroll(request: Request, context: Context, now: Now) -> Response:
    """Make an agent of the device: 201 with its identity, or 202 while an operator decides."""
    check_json(request)
    peer_ip = peer_address(request, context.settings)
    for budget in (context.enrollment_budget, context.enrollment_rate):
        budget.check(peer_ip, now)
    context.enrollment_rate.spend(peer_ip, now)
    try:
        message = codec.decode(EnrollRequest, await request.body())
        answer = await context.enrollments.enroll(check_request(message, peer_ip=peer_ip))
    except Exception as error:
        code = getattr(error, "code", None)
        if isinstance(code, str) and not isinstance(error, Overloaded):
            context.enrollment_budget.spend(peer_ip, now)
            context.enrollment_failures.count(code, peer_ip, now)
        raise
    status = 202 if isinstance(answer, EnrollmentPending) else 201
    return Response(codec.encode(answer), status_code=status, media_type="application/json")


@router.get("/trust/{version}", dependencies=[PUBLIC], response_class=Response)
async def get_trust_bundle(
    session: Session, version: Annotated[int, Path(ge=1, lt=2**53)]
) -> Response:
    """Return the trust bundle of this version, as it was signed."""
    return Response(await get_bundle_envelope(session, version), media_type="application/json")
