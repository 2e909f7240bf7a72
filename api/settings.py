"""Settings of the api: the environment, read once and handed down."""

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tensorguard.protocol.messages import MqttAddress
from tensorguard.services.certificates.service_certificates import allowed_hosts


class ListenAddress(NamedTuple):
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _parse_address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or not host:
        raise ValueError(f"{value!r} is not HOST:PORT")
    return ListenAddress(host.removeprefix("[").removesuffix("]"), int(port))


Listen = Annotated[ListenAddress, NoDecode, BeforeValidator(_parse_address)]


class ApiSettings(BaseSettings):
    """What the api needs to know; every field is `TG_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TG_", frozen=True, extra="ignore")

    database_url: SecretStr
    data_dir: Path
    trust_domain: str = "tensorguard.local"
    public_host: str = "127.0.0.1,localhost"
    """NAME[,IP…]: the first is what devices are told, all stand in the server certificate."""
    http: Listen = ListenAddress("127.0.0.1", 8080)
    device: Listen = ListenAddress("127.0.0.1", 8443)
    mqtt: Listen = ListenAddress("127.0.0.1", 8883)
    """Where the broker front listens: goes into the answer to an enrollment."""
    front_hosts: str = ""
    """Further names and addresses that broker fronts may be certified for."""
    broker_enroll: Listen | None = None
    """Where devices enrol with a manufacturer's certificate: told to operators."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    trusted_proxies: str = "127.0.0.1"
    """Whose X-Forwarded-* headers count, when behind_proxy is set."""
    database_connections: int = 8
    session_lifetime: timedelta = timedelta(hours=12)
    session_idle: timedelta = timedelta(minutes=30)
    receipt_wait: timedelta = timedelta(seconds=1)
    """How long the answer to a revocation waits for the broker fronts."""
    recovery_grace: timedelta = timedelta(days=30)
    """How long after its certificate's end an agent may ask to come back."""
    max_connections: int = 2000
    sink_networks: str = ""
    """Networks, separated by commas, that sinks may be in though they are not public."""
    package_limit_bytes: int = Field(default=16 * 1024**3, ge=1)
    """The largest package that may be uploaded."""
    package_store: str | None = None
    """`s3://bucket/prefix`; none: the data directory's `packages` folder."""
    uploads_per_user: int = Field(default=8, ge=1)
    uploads_in_all: int = Field(default=200, ge=1)
    """How many uploads may be open, of one user or API key and together."""
    downloads_per_fleet: int = Field(default=200, ge=1)
    """How many agents of a fleet may download at the same time; the others are told to wait."""

    @model_validator(mode="after")
    def _encrypts_what_leaves_the_machine(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TG_TLS_CERT and TG_TLS_KEY belong together")
        if not (self.http.is_loopback or self.tls_cert or self.behind_proxy):
            raise ValueError(
                f"TG_HTTP {self.http.host}:{self.http.port} would speak unencrypted HTTP to the"
                " network; set TG_TLS_CERT and TG_TLS_KEY, or TG_BEHIND_PROXY=true"
            )
        return self

    @property
    def is_https(self) -> bool:
        """Tell whether people's browsers reach the api over HTTPS."""
        return self.tls_cert is not None or self.behind_proxy

    @property
    def cookie_name(self) -> str:
        """The session cookie's name; `__Host-` cookies exist over HTTPS only."""
        return "__Host-tg" if self.is_https else "tg"

    @property
    def public_names(self) -> list[str]:
        """Every name and address by which devices may reach the platform."""
        return [name.strip() for name in self.public_host.split(",") if name.strip()]

    @property
    def mqtt_address(self) -> MqttAddress:
        """Where agents find their broker front."""
        return MqttAddress(host=self.public_names[0], port=self.mqtt.port)

    @property
    def hosts_of_fronts(self) -> frozenset[str]:
        """What broker fronts may be certified for."""
        listening = [self.mqtt.host, self.broker_enroll.host if self.broker_enroll else ""]
        return allowed_hosts(self.public_host, self.front_hosts, *listening)

    @property
    def device_url(self) -> str:
        """The URL that goes into join strings."""
        return f"https://{self._public_name}:{self.device.port}"

    @property
    def enroll_url(self) -> str | None:
        """The URL where devices enrol with a manufacturer's certificate; None: nowhere."""
        if self.broker_enroll is None:
            return None
        return f"mqtts://{self._public_name}:{self.broker_enroll.port}"

    @property
    def _public_name(self) -> str:
        name = self.public_names[0]
        return f"[{name}]" if ":" in name else name


class BadSettings(Exception):
    """The environment does not describe an api that can run."""

    code = "bad-settings"
    hint = "Set the variables named above; they are listed in api/settings.py."

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def load_settings() -> ApiSettings:
    """Read the settings from the environment.

    Raises: BadSettings, which names variables and never quotes their values.
    """
    try:
        return ApiSettings()  # type: ignore[call-arg]  # the environment gives them
    except ValidationError as error:
        wrong = "; ".join(
            f"{'TG_' + '.'.join(map(str, one['loc'])).upper() if one['loc'] else 'settings'}:"
            f" {one['msg']}"
            for one in error.errors(include_input=False)
        )
        raise BadSettings(wrong) from None
