"""What the broker front needs to know, from the environment (`TG_…`) or from the caller."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BrokerSettings(BaseSettings):
    """Frozen; built once in main and handed down."""

    model_config = SettingsConfigDict(env_prefix="TG_", frozen=True, extra="ignore")

    database_url: str
    mqtt: str = Field(default="127.0.0.1:8883", description="host:port to listen on")
    public_host: str = Field(
        default="127.0.0.1,localhost", description="names and addresses that agents connect to"
    )

    broker_engine: Literal["embedded", "nats"] = Field(
        default="embedded", description="what carries the messages: amqtt in here, or NATS"
    )
    nats_url: str = Field(
        default="tls://localhost:4222", description="the node of this front, for services"
    )
    nats_keys: Path | None = Field(
        default=None, description="file with the auth callout's keys, the same for all"
    )
    nats_log: Path | None = Field(
        default=None, description="the node's log; denied operations stand nowhere else"
    )

    broker_enroll: str | None = Field(
        default=None,
        description="host:port where devices enrol with a manufacturer's certificate",
    )

    # Several fronts on one database need a name each.
    broker_front_id: str = Field(default="front-1", pattern=r"^[a-z0-9-]{1,64}$")
    broker_connections: int = Field(default=10_000, ge=1, le=100_000)
    broker_refusals_per_s: float = Field(
        default=10.0,
        ge=1,
        le=1000,
        description="refused handshakes a second of one address; more behind a large NAT, and"
        " behind a load balancer that hides the agents' addresses",
    )
    broker_metrics: str | None = Field(
        default=None, description="host:port of /metrics and /healthz; none unless given"
    )

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen."""
        return split_address(self.mqtt)

    @property
    def certificate_hosts(self) -> list[str]:
        """Every name under which a client may look for this front."""
        names = [name.strip() for name in self.public_host.split(",")]
        hosts = [self.address[0]]
        if self.broker_enroll is not None:
            hosts.append(split_address(self.broker_enroll)[0])
        return [name for name in (*names, *hosts, "localhost", "127.0.0.1") if name]


def split_address(text: str) -> tuple[str, int]:
    """Return host and port; IPv6 addresses stand in brackets. Raises: ValueError."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
