"""From a sink's row to the client that sends: secrets are opened here, and nowhere else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.keys.sealed_rows import open_stored, store_secret
from tensorguard.services.sinks.sink_configs import (
    DatadogConfig,
    FileConfig,
    SinkConfig,
    SplunkConfig,
    StdoutConfig,
    SyslogConfig,
    WebhookConfig,
    has_secret,
    parse_config,
)
from tensorguard.services.sinks.sinks import Sink
from tensorguard.siem.address_guard import AddressGuard
from tensorguard.siem.answer import Answer
from tensorguard.siem.datadog import DatadogClient, DatadogTarget
from tensorguard.siem.hec import ACK_TIMEOUT, HecClient, HecTarget
from tensorguard.siem.http_client import HttpClient, tls_context
from tensorguard.siem.item import Batch, SinkClient
from tensorguard.siem.lines import LinesClient, StandardOutput, append_to
from tensorguard.siem.ocsf import labelled_item
from tensorguard.siem.syslog import SyslogClient, SyslogTarget
from tensorguard.siem.webhook import WebhookClient, WebhookTarget
from tensorguard.vault.provider import KeyProvider

PURPOSE: Final = "sink-secret"
SINKS_FOLDER: Final = "sinks"
_TEST_ACK: Final = timedelta(seconds=15)
_TEST_S: Final = 20
"""Somebody waits for a test, and a transaction is open meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a process has of the world that sinks are in."""

    guard: AddressGuard
    data_dir: Path
    trust_domain: str
    output: StandardOutput = field(default_factory=StandardOutput)


async def store_sink_secret(
    session: AsyncSession,
    kek: KeyProvider,
    sink_id: UUID,
    version: int,
    secret: str,
    *,
    now: datetime,
) -> None:
    """Seal a version of a sink's secret. Raises: VaultError."""
    owner = owner_of(sink_id, version)
    await store_secret(session, kek, secret.encode(), purpose=PURPOSE, owner=owner, now=now)


async def open_sink_secrets(
    session: AsyncSession, kek: KeyProvider, sink: Sink, *, now: datetime
) -> list[str]:
    """Return the present secret, and after it the one before while that counts too.

    Raises: VaultError.
    """
    if not has_secret(sink.kind):
        return []
    versions = [sink.secret_version]
    if sink.previous_until is not None and now < sink.previous_until:
        versions.append(sink.secret_version - 1)
    return [
        (
            await open_stored(session, kek, purpose=PURPOSE, owner=owner_of(sink.id, version))
        ).decode()
        for version in versions
    ]


def owner_of(sink_id: UUID, version: int) -> str:
    """Return the name under which a version of a sink's secret is sealed."""
    return f"{sink_id}/{version}"


def open_client(sink: Sink, secrets: Sequence[str], outside: Outside) -> SinkClient:
    """Return the client of a stored sink. Raises: SinkInvalid, BadSink."""
    return make_client(parse_config(sink.config), secrets, outside, sink_id=sink.id)


def make_client(
    config: SinkConfig,
    secrets: Sequence[str],
    outside: Outside,
    *,
    sink_id: UUID,
    ack_timeout: timedelta = ACK_TIMEOUT,
) -> SinkClient:
    """Return the client of a destination. Raises: BadSink."""
    match config:
        case SplunkConfig():
            target = HecTarget(
                url=config.url,
                token=secrets[0],
                channel=str(sink_id),
                host=outside.trust_domain,
                index=config.index,
                source=config.source,
                sourcetype=config.sourcetype,
                acknowledge=config.acknowledge,
                ack_timeout=ack_timeout,
            )
            return HecClient(target, _http(config, outside))
        case DatadogConfig():
            labels = DatadogTarget(
                url=config.url,
                api_key=secrets[0],
                host=outside.trust_domain,
                service=config.service,
                tags=",".join(config.tags),
            )
            return DatadogClient(labels, _http(config, outside))
        case WebhookConfig():
            receiver = WebhookTarget(url=config.url, secrets=secrets, sink_id=str(sink_id))
            return WebhookClient(receiver, _http(config, outside), max_items=config.batch_items)
        case SyslogConfig():
            collector = SyslogTarget(
                host=config.host,
                port=config.port,
                hostname=outside.trust_domain,
                confirm=config.confirm,
                enterprise=config.enterprise,
                message_bytes=config.message_bytes,
            )
            tls = tls_context(config.ca_pem)
            return SyslogClient(collector, outside.guard, tls, timeout_s=config.timeout_s)
        case FileConfig():
            return LinesClient(_appending(outside.data_dir / SINKS_FOLDER / config.file_name))
        case StdoutConfig():
            return LinesClient(outside.output.write)


async def send_test(
    config: SinkConfig,
    secrets: Sequence[str],
    outside: Outside,
    *,
    sink_id: UUID,
    now: datetime,
) -> Answer:
    """Send one labelled event, and return what the destination makes of it. Raises: BadSink."""
    if not isinstance(config, FileConfig | StdoutConfig):
        config = config.model_copy(update={"timeout_s": min(config.timeout_s, _TEST_S)})
    client = make_client(config, secrets, outside, sink_id=sink_id, ack_timeout=_TEST_ACK)
    item = labelled_item(sink=str(sink_id), trust_domain=outside.trust_domain, now=now)
    try:
        return await client.send(Batch([item], ""), now=now)
    finally:
        await client.close()


def _http(config: SplunkConfig | DatadogConfig | WebhookConfig, outside: Outside) -> HttpClient:
    tls = tls_context(config.ca_pem)
    return HttpClient(outside.guard, tls, timeout_s=config.timeout_s)


def _appending(path: Path) -> Callable[[bytes], None]:
    return lambda lines: append_to(path, lines)
