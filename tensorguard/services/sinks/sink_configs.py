"""What has to be known of a destination, by kind. No secret stands here."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from tensorguard.services.sinks.sink_errors import SinkInvalid
from tensorguard.siem import syslog, webhook
from tensorguard.siem.errors import BadSink
from tensorguard.siem.http_client import check_url, tls_context

MAX_CA_BYTES: Final = 64 * 1024
FILE_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}\.jsonl$"


def _checked_url(url: str) -> str:
    try:
        check_url(url)
    except BadSink as error:
        raise ValueError(error.message) from None
    return url


def _checked_ca(pem: str) -> str:
    try:
        tls_context(pem)
    except BadSink as error:
        raise ValueError(error.message) from None
    return pem


Url = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_checked_url)]
CaPem = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CA_BYTES, pattern=r"^[\n\r -~]*$"),
    AfterValidator(_checked_ca),
]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[ -~]+$")]
Host = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")
]
TimeoutS = Annotated[int, Field(ge=1, le=120)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Remote(_Config):
    ca_pem: CaPem | None = None
    timeout_s: TimeoutS = 30


class SplunkConfig(_Remote):
    """Splunk's HTTP Event Collector; its secret is the token."""

    kind: Literal["splunk"] = "splunk"
    url: Url
    index: Label | None = None
    source: Label = "tensorguard"
    sourcetype: Label = "tensorguard:ledger:ocsf"
    acknowledge: bool = False


class DatadogConfig(_Remote):
    """Datadog's log intake; its secret is the API key."""

    kind: Literal["datadog"] = "datadog"
    url: Url = "https://http-intake.logs.datadoghq.com"
    service: Label = "tensorguard"
    tags: Annotated[list[Label], Field(max_length=20)] = Field(default_factory=list)


class WebhookConfig(_Remote):
    """A receiver of Standard Webhooks; its secret is `whsec_…`, and signs."""

    kind: Literal["webhook"] = "webhook"
    url: Url
    batch_items: Annotated[int, Field(ge=1, le=webhook.MAX_ITEMS)] = 500


class SyslogConfig(_Remote):
    """A syslog receiver over TLS; it has no secret.

    `confirm`: a batch counts once the receiver has closed its connection in order.
    """

    kind: Literal["syslog"] = "syslog"
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = syslog.DEFAULT_PORT
    confirm: bool = True
    message_bytes: Annotated[int, Field(ge=2048, le=1_000_000)] = syslog.DEFAULT_MESSAGE_BYTES
    enterprise: Annotated[int, Field(ge=1, le=2**31 - 1)] = syslog.DEFAULT_ENTERPRISE


class FileConfig(_Config):
    """JSON lines in a file of the hub's host, in the folder `sinks` of its data directory."""

    kind: Literal["file"] = "file"
    file_name: Annotated[str, StringConstraints(pattern=FILE_PATTERN)]


class StdoutConfig(_Config):
    """JSON lines on the hub's standard output."""

    kind: Literal["stdout"] = "stdout"


SinkConfig = Annotated[
    SplunkConfig | DatadogConfig | WebhookConfig | SyslogConfig | FileConfig | StdoutConfig,
    Field(discriminator="kind"),
]
_ADAPTER: Final[TypeAdapter[Any]] = TypeAdapter(SinkConfig)
_WITH_SECRET: Final = ("splunk", "datadog", "webhook")
_PLAIN_SECRET: Final = re.compile(r"[!-~]{8,500}")


def parse_config(config: dict[str, Any]) -> SinkConfig:
    """Return a stored configuration. Raises: SinkInvalid."""
    try:
        parsed: SinkConfig = _ADAPTER.validate_python(config)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"][1:]))
        raise SinkInvalid(f"{place}: {first['msg']}") from None
    return parsed


def has_secret(kind: str) -> bool:
    """Whether a sink of this kind needs a secret."""
    return kind in _WITH_SECRET


def check_secret(kind: str, secret: str | None) -> None:
    """Refuse a secret that does not fit the kind; it is never quoted. Raises: SinkInvalid."""
    if not has_secret(kind):
        if secret is not None:
            raise SinkInvalid(f"a sink of kind {kind} has no secret")
        return
    if secret is None:
        raise SinkInvalid(f"a sink of kind {kind} needs a secret")
    if kind == "webhook":
        try:
            webhook.key_of(secret)
        except BadSink as error:
            raise SinkInvalid(error.message) from None
    elif _PLAIN_SECRET.fullmatch(secret) is None:
        raise SinkInvalid("the secret has 8 to 500 printable characters, and no space")
