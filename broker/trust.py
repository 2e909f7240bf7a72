"""Whom a front believes now, and the TLS contexts that say so."""

import ssl

import structlog

from broker.certificate import FrontCertificate
from tensorguard.services.keys.keyring import Keyring

_log = structlog.get_logger()


class Trust:
    """The platform CAs of the keyring's trust bundle; `changed` is told when there is another."""

    def __init__(self, keyring: Keyring, certificate: FrontCertificate) -> None:
        self._keyring = keyring
        self._certificate = certificate
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        self.trust_domain = keyring.trust_domain
        self.cas = list(keyring.trust.cas)

    def changed(self) -> None:
        """Believe what the keyring's trust bundle says now."""
        cas = list(self._keyring.trust.cas)
        if cas != self.cas:
            self.cas, self._server, self._client = cas, None, None
            _log.info("trusted_cas_changed", count=len(cas))

    def server_context(self) -> ssl.SSLContext:
        """For listening: every client must show a certificate of these CAs."""
        if self._server is None:
            self._server = self._certificate.server_context(self.cas)
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """For connecting to another service of the platform."""
        if self._client is None:
            self._client = self._certificate.client_context(self.cas)
        return self._client
