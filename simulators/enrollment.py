"""Getting simulated agents into a platform: fleet and token by the REST API, then the real join."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.core.state import AgentState
from agent.errors import EnrollmentNotApproved
from agent.runtime import keys
from agent.runtime.enroll import Joined, check_answer, fetch_anchor, first_state, read_answer
from agent.runtime.https import Answer, verified_context
from agent.version import AGENT_VERSION
from simulators.errors import ApiRefused
from simulators.identities import Home
from tensorguard.pki.issuer import certificate_pem
from tensorguard.protocol import codec
from tensorguard.protocol.join import Join, parse_join
from tensorguard.protocol.messages import Enrolled, EnrollRequest

TOKEN_TTL_S = 24 * 3600
MAX_TOKEN_USES = 10_000
AT_ONCE = 8
TRIES = 6
TIMEOUT = httpx.Timeout(30.0)


class NewAgent:
    """What an enrollment gave: identity, first state, PEM, and the verified answer."""

    __slots__ = ("home", "joined", "pem", "state")

    def __init__(self, home: Home, state: AgentState, pem: bytes, joined: Joined) -> None:
        self.home = home
        self.state = state
        self.pem = pem
        self.joined = joined


async def mint_join(
    url: str, api_key: str, fleet: str, *, uses: int, tags: Mapping[str, str]
) -> Join:
    """Make the fleet if it is missing, and a token for so many agents. Raises: ApiRefused."""
    headers = {"Authorization": f"Bearer {api_key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False
    ) as client:
        found = await _call(client, "GET", f"/api/v1/fleets/{quote(fleet)}")
        if found.status_code == 404:
            body = {"slug": fleet, "name": fleet}
            made = await _call(client, "POST", "/api/v1/fleets", json=body)
            if made.status_code not in (200, 201, 409):  # 409: somebody was faster
                raise _refused(made, f"the fleet {fleet!r} could not be made")
        elif found.status_code not in (200, 405):
            raise _refused(found, f"the fleet {fleet!r} could not be read")
        token = await _call(
            client,
            "POST",
            f"/api/v1/fleets/{quote(fleet)}/enrollment-tokens",
            json={
                "ttl_s": TOKEN_TTL_S,
                "max_uses": min(uses, MAX_TOKEN_USES),
                "tags": dict(tags),
                "approval": "auto",
            },
        )
        if token.status_code != 201:
            raise _refused(token, "no enrollment token")
        return parse_join(token.json()["join"])


async def enroll_many(
    join: Join, numbers: range, seed: int, on_new: Callable[[NewAgent], None]
) -> None:
    """Enrol agents, a few at a time; each is handed over as soon as it is there.

    Raises: AgentError, ApiRefused.
    """
    anchor = await asyncio.to_thread(fetch_anchor, join)
    waiting = iter(numbers)
    async with _device_api(join, anchor) as client:

        async def work() -> None:
            for number in waiting:
                on_new(await _enroll(client, join, anchor, number, seed))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(numbers))):
                group.create_task(work())


async def _enroll(
    client: httpx.AsyncClient, join: Join, anchor: x509.Certificate, number: int, seed: int
) -> NewAgent:
    tls_key = ec.generate_private_key(ec.SECP256R1())
    encryption_key = X25519PrivateKey.generate()
    body = EnrollRequest(
        token=join.token,
        csr=keys.make_csr(tls_key),
        encryption_key=encryption_key.public_key().public_bytes_raw(),
        name=f"sim-{seed}-{number}",
        facts={
            "os": "simulated",
            "arch": "simulated",
            "hostname": f"sim-{seed}-{number}",
            "timezone": "UTC",
            "agent_version": AGENT_VERSION,
            "accelerators": [],
        },
    )
    answer = await _post(client, codec.encode(body))
    joined = check_answer(answer, anchor, datetime.now(UTC))
    home = Home(
        number=number,
        agent_id=joined.identity.agent_id,
        fleet=joined.identity.fleet,
        trust_domain=joined.identity.trust_domain,
        device_url=join.url.rstrip("/"),
        mqtt_host=joined.mqtt_host,
        mqtt_port=joined.mqtt_port,
        encryption_key=encryption_key.private_bytes_raw(),
    )
    pem = keys.private_pem(tls_key) + certificate_pem(joined.certificate).encode()
    return NewAgent(home, first_state(joined), pem, joined)


async def _post(client: httpx.AsyncClient, body: bytes) -> Enrolled:
    """Send the same request until it is answered: a repetition gets the same agent."""
    for attempt in range(TRIES):
        last = attempt == TRIES - 1
        try:
            response = await client.post(
                "/device/v1/enroll", content=body, headers={"Content-Type": "application/json"}
            )
        except httpx.HTTPError as error:
            if last:
                raise ApiRefused(
                    f"the device API does not answer: {type(error).__name__}"
                ) from error
        else:
            if not (response.status_code in (429, 502, 503, 504) and not last):
                kind = response.headers.get("content-type", "").partition(";")[0]
                answer = read_answer(Answer(response.status_code, kind, response.content))
                if isinstance(answer, Enrolled):
                    return answer
                raise EnrollmentNotApproved("simulated agents need a token with approval 'auto'")
        await asyncio.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


@asynccontextmanager
async def _device_api(join: Join, anchor: x509.Certificate) -> AsyncIterator[httpx.AsyncClient]:
    context: ssl.SSLContext = verified_context([certificate_pem(anchor)])
    async with httpx.AsyncClient(
        base_url=join.url,
        verify=context,
        timeout=TIMEOUT,
        trust_env=False,
        limits=httpx.Limits(max_connections=AT_ONCE),
    ) as client:
        yield client


async def _call(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
    try:
        return await client.request(method, path, **more)
    except httpx.HTTPError as error:
        raise ApiRefused(f"{client.base_url} does not answer: {type(error).__name__}") from error


def _refused(response: httpx.Response, what: str) -> ApiRefused:
    try:
        problem = response.json()
        why = str(problem.get("detail") or problem.get("title") or "")
    except ValueError:
        why = ""
    return ApiRefused(f"{what}: HTTP {response.status_code} {why}"[:300])
