"""`/api/v1/trust/crl` and `/device/v1/crl`: the same list, with and without an account."""

from typing import Annotated

from fastapi import Response

from api.access import PUBLIC, Requires
from api.context import ApiContext
from api.routing import Context, Now, Session, new_router
from tensorguard.services.certificates.crl import MEDIA_TYPE, Crl
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/trust/crl", "trust")
device_router = new_router("/device/v1/crl", "device")
Reader = Annotated[Caller, Requires(Permission.TRUST_READ)]
_CONTENT = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}


@router.get("", response_class=Response, responses={200: {"content": _CONTENT}})
async def get_crl(caller: Reader, context: Context, session: Session, now: Now) -> Response:
    """Return the certificate revocation list of the issuing CA (RFC 5280), in DER."""
    return _answer(await _crl(context, session, now))


@device_router.get("", dependencies=[PUBLIC], response_class=Response)
async def get_public_crl(context: Context, session: Session, now: Now) -> Response:
    """Return the same list to whoever asks: it is signed."""
    return _answer(await _crl(context, session, now))


async def _crl(context: ApiContext, session: Session, now: Now) -> Crl:
    return await context.crl.get(session, context.keyring.ca, now)


def _answer(crl: Crl) -> Response:
    return Response(crl.der, media_type=MEDIA_TYPE, headers={"ETag": f'"{crl.number}"'})
