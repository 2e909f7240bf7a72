"""A real agent that was away while what it believes has changed, and CAs in their overlap."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.runtime.enroll import enroll
from agent.runtime.service import AgentService
from agent.runtime.statedir import IDENTITY, TRUST, StateDir
from tensorguard.pki.bundle import TrustStore, trusted_key
from tensorguard.pki.draft import Draft
from tensorguard.pki.identity import authority_key_id
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.services.certificates.ca_rotation import begin_rotation, get_rotation, promote
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust import Roots, draft_next
from tensorguard.services.trust.trust_publishing import publish
from tests.integration.agent.platform import issue_service
from tests.integration.broker.conftest import run_program
from tests.integration.trust.site import BY, TRUST_DOMAIN, Site
from tests.patience import PATIENCE_S
from tests.unit.agent.builders import Signers


async def change_roots(site: Site, roots: Roots, *signers: Ed25519Signer) -> None:
    async with site.sessions.begin() as session:
        now = datetime.now(UTC)
        draft: Draft = await draft_next(session, now=now, roots=roots)
        for signer in signers:
            draft = draft.sign(signer)
        await publish(session, draft.envelope, by=BY, now=now)


async def issue_by_a_new_ca(site: Site, **changes: Any) -> None:
    """What rotate-ca does until the new CA issues; nobody is online."""
    async with site.sessions.begin() as session:
        now = datetime.now(UTC)
        made = await begin_rotation(session, site.kek, TRUST_DOMAIN, by=BY, now=now)
    await site.publish(**changes)
    async with site.sessions.begin() as session:
        await promote(session, made, by=BY, now=datetime.now(UTC))


async def shown_ca(port: int) -> bytes:
    """The key id of the CA of whatever certificate a listener shows."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return authority_key_id(x509.load_pem_x509_certificate(pem.encode()))


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for is in other threads
            await asyncio.sleep(0.02)


async def until_api_has_moved(site: Site) -> None:
    """Wait until the device listener shows a certificate of the CA that issues."""
    async with site.sessions() as session:
        wanted = (await get_rotation(session)).issuing.key_id
    async with asyncio.timeout(PATIENCE_S):
        while await shown_ca(site.device_port) != wanted:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.05)


async def until_all_have_moved(site: Site) -> None:
    """Wait until every listener does."""
    await until_api_has_moved(site)
    certified = "SELECT count(*) = 2 FROM service_certificates WHERE certificate IS NOT NULL"
    await site.until(certified)


@contextlib.asynccontextmanager
async def running_agent(directory: StateDir) -> AsyncIterator[AgentService]:
    service = AgentService(directory)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.stop()
        await asyncio.to_thread(thread.join, PATIENCE_S)
        assert not thread.is_alive()


async def test_an_agent_that_was_off_for_five_versions_and_a_new_ca_catches_up(
    site: Site, tmp_path: Path
) -> None:
    directory = StateDir(tmp_path / "agent")
    async with site.running():
        await asyncio.to_thread(enroll, await site.join(), directory, "device")
        first = TrustStore.open_first(directory.get(TRUST))
        old, spare = load_root_directory(site.root_keys)
        new = Ed25519Signer.generate()
        until = datetime.now(UTC) + timedelta(days=100)
        keys = {one.kid: trusted_key(one.public_raw, until) for one in (old, spare, new)}
        # 2: a third root key; 3: two of them have to sign; 4: the first leaves; 5: one is enough.
        await change_roots(site, Roots(list(keys.values()), 1), old, new)
        await change_roots(site, Roots(list(keys.values()), 2), old, new)
        await change_roots(site, Roots([keys[spare.kid], keys[new.kid]], 2), old, spare, new)
        await change_roots(site, Roots([keys[spare.kid], keys[new.kid]], 1), spare, new)
        await issue_by_a_new_ca(site, renew_within_s=1)
        await until_all_have_moved(site)

        async with running_agent(directory) as service:
            agent_id = str(service.core.client_id)
            known = "SELECT trust_version = 6 FROM agent_state WHERE agent_id = :id"
            await site.until(known, id=agent_id)
            assert TrustStore.open_first(directory.get(TRUST)).version == 6
            assert first.version == 1
            # And it leaves the older CA, whose certificate has served it until now.
            moved = (
                "SELECT count(*) = 2 AND bool_and(first_connected_at IS NOT NULL)"
                " AND count(DISTINCT authority_key_id) = 2 FROM certificates"
            )
            await site.until(moved)
            assert await site.until("SELECT max(boot_count) = 1 FROM agent_state")


class Liar:
    """Answers the device URL with a certificate of its own, lies first, then what is true."""

    def __init__(self, folder: Path, lies: list[bytes]) -> None:
        self.heard: list[str] = []
        self.truth: dict[int, bytes] = {}
        strangers = Signers(datetime.now(UTC))
        pem = issue_service(strangers, "api", folder / "liar.pem")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                assert self.connection.getpeercert(binary_form=True) is None
                outer.heard.append(f"{self.command} {self.path}\n{self.headers}")
                version = int(self.path.rpartition("/")[2])
                body = lies.pop(0) if lies else outer.truth.get(version)
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

        class Server(HTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # who does not believe us hangs up

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.verify_mode = ssl.CERT_OPTIONAL  # would take a client certificate, were one shown
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            self.server.server_close()


async def test_what_a_liar_says_changes_nothing_and_it_hears_nothing(
    site: Site, tmp_path: Path
) -> None:
    directory = StateDir(tmp_path / "agent")
    strangers = Signers(datetime.now(UTC))
    liar = Liar(tmp_path, lies=[strangers.bundle(version=2)])
    async with site.running():
        await asyncio.to_thread(enroll, await site.join(), directory, "device")
        home = msgspec.structs.replace(directory.get_home(), device_url=liar.url)
        directory.write(IDENTITY, msgspec.json.encode(home))
        before = directory.get(TRUST)
        await issue_by_a_new_ca(site)
        await until_all_have_moved(site)
        with liar.running():
            async with running_agent(directory) as service:
                await until(lambda: bool(liar.heard))
                # The start, and that a bundle was refused.
                await until(lambda: len(service.core.outbox) >= 2)
                assert directory.get(TRUST) == before
                assert service.core.trust.version == 1
                [envelope] = (
                    await site.rows("SELECT envelope FROM trust_bundles WHERE version = 2")
                )[0]
                liar.truth = {2: bytes(envelope)}
                await site.until("SELECT max(trust_version) = 2 FROM agent_state")
        for request in liar.heard:
            line, _, headers = request.partition("\n")
            assert line in ("GET /device/v1/trust/2", "GET /device/v1/trust/3")
            names = {one.partition(":")[0].lower() for one in headers.strip().splitlines()}
            assert names <= {"host", "accept-encoding"}


async def test_openssl_verifies_both_chains_in_the_overlap_and_only_the_new_one_after_it(
    site: Site, tmp_path: Path
) -> None:
    old, new = StateDir(tmp_path / "old"), StateDir(tmp_path / "new")
    async with site.running("api"):
        await asyncio.to_thread(enroll, await site.join(), old, "old")
        await issue_by_a_new_ca(site)
        await until_api_has_moved(site)
        await asyncio.to_thread(enroll, await site.join(), new, "new")
        overlap = TrustStore.open_first(new.get(TRUST))
        assert (overlap.version, len(overlap.cas)) == (2, 2)
        leaves = []
        for directory in (old, new):
            leaf = x509.load_pem_x509_certificate(directory.get("agent.pem"))
            leaves.append(directory.path / "leaf.pem")
            leaves[-1].write_bytes(leaf.public_bytes(Encoding.PEM))
        bundle, newest = tmp_path / "overlap.pem", tmp_path / "newest.pem"
        bundle.write_text("".join(overlap.bundle.ca))
        newest.write_bytes(overlap.newest_ca.public_bytes(Encoding.PEM))

        async def verified(anchors: Path, leaf: Path) -> bool:
            command = ("openssl", "verify", "-x509_strict", "-purpose", "sslclient")
            return (await run_program(*command, "-CAfile", anchors, leaf)).startswith("exit 0")

        assert [await verified(bundle, leaf) for leaf in leaves] == [True, True]
        assert [await verified(newest, leaf) for leaf in leaves] == [False, True]
        connect = ("openssl", "s_client", "-connect", f"127.0.0.1:{site.device_port}")
        for anchors, works in ((bundle, True), (newest, True)):
            said = await run_program(*connect, "-CAfile", anchors, "-verify_return_error")
            assert ("Verify return code: 0 (ok)" in said) is works
