"""`/device/v1/recover`: back after the certificate's end; public: the proof is in the body."""

from fastapi import Request, Response

from api.access import PUBLIC
from api.limits import KIB, check_json, limits
from api.routing import Context, Now, Session, new_router
from tensorguard.protocol import codec
from tensorguard.protocol.recovery import RecoverRequest, RecoveryPending
from tensorguard.services.certificates.recovery import new_challenge
from tensorguard.services.certificates.recovery import recover as recover_agent

router = new_router("/device/v1/recover", "device")
MAX_RECOVER_BYTES = 32 * KIB


@router.get("/challenge", dependencies=[PUBLIC], response_class=Response)
async def get_challenge(context: Context, now: Now) -> Response:
    """Return what the proof has to contain; good for five minutes."""
    challenge = new_challenge(context.keyring.url_key, now)
    return Response(codec.encode(challenge), media_type="application/json")


@router.post("", dependencies=[PUBLIC], response_class=Response)
@limits(max_body_bytes=MAX_RECOVER_BYTES)
async def recover(request: Request, context: Context, session: Session, now: Now) -> Response:
    """Ask to come back: 202 while an operator decides, then 201 with the certificate."""
    check_json(request)
    peer_ip = request.client.host if request.client else "unknown"
    context.enrollment_budget.check(peer_ip, now)
    try:
        answer = await recover_agent(
            session,
            context.keyring,
            codec.decode(RecoverRequest, await request.body()),
            peer=peer_ip,
            now=now,
            grace=context.settings.recovery_grace,
        )
    except Exception as error:
        code = getattr(error, "code", None)
        if isinstance(code, str):
            context.enrollment_budget.spend(peer_ip, now)
            context.enrollment_failures.count(code, peer_ip, now)
        raise
    status = 202 if isinstance(answer, RecoveryPending) else 201
    return Response(codec.encode(answer), status_code=status, media_type="application/json")
