"""A service's own certificate: minted by itself at start, renewed by itself, never kept on disk."""

import asyncio
import os
import random
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tensorguard.pki.identity import ServiceIdentity
from tensorguard.pki.issuer import SERVICE_LIFETIME, CertificateAuthority, certificate_pem

log = structlog.get_logger()

RENEW_AT: Final = 2 / 3
_RETRY_S: Final = 60.0
_LONGEST_WAIT_S: Final = 3600.0  # the clock may be set while we wait


def utc_now() -> datetime:
    """The system clock, aware UTC."""
    return datetime.now(UTC)


class PresentedCertificate:
    """One service's key and certificate, and the TLS contexts that present them.

    A renewal reaches every context that was built: connections made afterwards see the new
    certificate, and open ones stay.
    """

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        # Weakly: whoever trusts other CAs from now on drops its old context.
        self._contexts: WeakKeyDictionary[ssl.SSLContext, bytes] = WeakKeyDictionary()

    def present(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        issued_at: datetime,
    ) -> None:
        """Show this certificate from now on."""
        key_pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._issued_at = issued_at
        self._certificate = certificate
        self._pem = key_pem + certificate_pem(certificate).encode("ascii")
        for context, chain in self._contexts.items():
            _load_chain(context, self._pem + chain)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that is presented now."""
        return self._certificate

    @property
    def renew_at(self) -> datetime:
        """When two thirds of the certificate's life are over."""
        life = self._certificate.not_valid_after_utc - self._issued_at
        return self._issued_at + life * RENEW_AT

    def server_context(
        self,
        client_cas: Sequence[x509.Certificate] | None = None,
        *,
        ours: bool = True,
        chain: Sequence[x509.Certificate] = (),
    ) -> ssl.SSLContext:
        """A context for listening; with `client_cas` every client must prove to be theirs.

        No CA at all lets nobody in. CAs that are not `ours` need neither be self-signed nor write
        everything that RFC 5280 asks for. `chain` is sent along, for clients that know a pin.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Without tickets every connection proves its key again, and none is resumed after its
        # certificate's end.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        if client_cas is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= (
                ssl.VERIFY_X509_STRICT if ours else ssl.VERIFY_X509_PARTIAL_CHAIN
            )
        if client_cas:
            context.load_verify_locations(cadata=_pem_of(client_cas))
        return self._present(context, _pem_of(chain).encode("ascii"))

    def client_context(self, server_cas: Sequence[x509.Certificate]) -> ssl.SSLContext:
        """A context for connecting: checks the server's chain and host name, shows our own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=_pem_of(server_cas))
        return self._present(context)

    def _present(self, context: ssl.SSLContext, chain: bytes = b"") -> ssl.SSLContext:
        _load_chain(context, self._pem + chain)
        self._contexts[context] = chain
        return context


class ServiceCertificate(PresentedCertificate):
    """The certificate of a service that holds the CA's key, and mints its own."""

    def __init__(
        self,
        ca: CertificateAuthority,
        identity: ServiceIdentity,
        *,
        hosts: Sequence[str] = (),
        lifetime: timedelta = SERVICE_LIFETIME,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Mint the first certificate, for these host names and IP addresses.

        Raises: CannotIssue.
        """
        super().__init__(clock)
        self._ca = ca
        self._identity = identity
        self._dns_names, self._ip_addresses = split_hosts(hosts)
        self._lifetime = lifetime
        self.renew()

    def renew(self) -> None:
        """Make a new key and certificate, and present them from now on. Raises: CannotIssue."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        certificate = self._ca.issue_service(
            private_key.public_key(),
            self._identity,
            now,
            self._lifetime,
            dns_names=self._dns_names,
            ip_addresses=self._ip_addresses,
        )
        self.present(private_key, certificate, now)

    def use(self, ca: CertificateAuthority) -> None:
        """Be certified by this CA; nothing happens if that is so already. Raises: CannotIssue."""
        if ca.certificate != self._ca.certificate:
            self._ca = ca
            self.renew()
            log.info("service_certificate_changed_ca", service=self._identity.name)

    async def keep_renewed(self, stop: asyncio.Event) -> None:
        """Renew at two thirds of each certificate's life until `stop` is set."""
        wait_s = self._wait_s()
        while not await _is_set_within(stop, wait_s):
            if self._clock() < self.renew_at:
                wait_s = self._wait_s()
                continue
            try:
                self.renew()
            except Exception:  # whatever it is, the present certificate serves on and we try again
                log.exception("service_certificate_not_renewed", service=self._identity.name)
                wait_s = random.uniform(0, _RETRY_S)  # noqa: S311 - spreads load, hides nothing
                continue
            log.info(
                "service_certificate_renewed",
                service=self._identity.name,
                not_after=self._certificate.not_valid_after_utc.isoformat(),
            )
            wait_s = self._wait_s()

    def _wait_s(self) -> float:
        left = (self.renew_at - self._clock()).total_seconds()
        return min(max(left, 0.0), _LONGEST_WAIT_S)


def split_hosts(hosts: Sequence[str]) -> tuple[list[str], list[IPv4Address | IPv6Address]]:
    """Host names and IP addresses, told apart, in order and once each."""
    names: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for host in dict.fromkeys(hosts):
        try:
            addresses.append(ip_address(host))
        except ValueError:
            names.append(host)
    return names, addresses


def _pem_of(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(certificate_pem(certificate) for certificate in certificates)


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificate into a context; Python's ssl takes them from a path only."""
    if hasattr(os, "memfd_create"):  # Linux: a file that has no name and no disk
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600, gone at once
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stop.wait()
    except TimeoutError:
        return stop.is_set()
