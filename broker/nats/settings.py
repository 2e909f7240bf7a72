"""What the keeper of one NATS node needs to know, from the environment (`TG_…`)."""

from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.nats.configuration import Cluster, Files, Node
from broker.nats.errors import BadNodeSettings
from broker.nats.keys import CalloutKeys
from broker.settings import split_address

_GIB: Final = 1024**3
_HOST_PORT: Final = r"^\S+:\d{1,5}$"


class NodeSettings(BaseSettings):
    """Frozen; built once in main and handed down. Addresses are host:port."""

    model_config = SettingsConfigDict(env_prefix="TG_", frozen=True, extra="ignore")

    nats_node: str = Field(
        default="node-1", pattern=r"^[a-z0-9-]{1,64}$", description="its name, one of its own each"
    )
    nats_listen: str = Field(
        default="127.0.0.1:4222", pattern=_HOST_PORT, description="for hubs and fronts"
    )
    mqtt: str = Field(default="127.0.0.1:8883", pattern=_HOST_PORT, description="for agents")
    public_host: str = Field(
        default="127.0.0.1,localhost", description="names and addresses that agents connect to"
    )
    nats_hosts: str = Field(
        default="", description="further names under which hubs, fronts and nodes find this node"
    )
    nats_keys: Path = Field(description="the auth callout's keys: the same file everywhere")
    nats_data: Path = Field(description="folder for certificate, configuration, store")
    nats_log: Path | None = Field(
        default=None,
        description="the server's log, which the front reads; else in the folder",
    )
    nats_server: Path | None = Field(default=None, description="the program, if not the wheel's")

    nats_cluster_name: str = Field(default="tensorguard", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    nats_cluster_listen: str | None = Field(
        default=None, pattern=_HOST_PORT, description="for other nodes; none is no cluster"
    )
    nats_routes: str = Field(
        default="", description="host:port of every node of the cluster, by the names they have"
    )
    nats_replicas: int = Field(default=1, ge=1, le=5, description="copies of what is stored")
    nats_connections: int = Field(default=19_000, ge=10, le=1_000_000)
    nats_stored_bytes: int = Field(default=8 * _GIB, ge=64 * 1024**2)
    nats_reload_spread: timedelta = Field(
        default=timedelta(seconds=60),
        description="nodes of a cluster take a new certificate within this time, not at once",
    )

    @property
    def certificate_hosts(self) -> list[str]:
        """Every name under which somebody may look for this node."""
        named = [name.strip() for name in f"{self.public_host},{self.nats_hosts}".split(",")]
        listens = (self.mqtt, self.nats_listen, self.nats_cluster_listen or "")
        hosts = [split_address(address)[0] for address in listens if address]
        return [name for name in dict.fromkeys([*named, *hosts, "localhost", "127.0.0.1"]) if name]

    @property
    def log_path(self) -> Path:
        """Where the server writes its log."""
        return self.nats_log if self.nats_log is not None else self.nats_data / "nats.log"

    @property
    def files(self) -> Files:
        """Certificate and key are one file: so they are replaced together."""
        pair = self.nats_data / "node.pem"
        return Files(pair, pair, self.nats_data / "ca.pem", self.nats_data / "store")

    def node(self, keys: CalloutKeys, trust_domain: str) -> Node:
        """What the server's configuration is rendered from. Raises: BadNodeSettings."""
        cluster = self._cluster()
        if self.nats_replicas > 1 and cluster is None:
            raise BadNodeSettings(
                f"{self.nats_replicas} copies take a cluster",
                hint="Set TG_NATS_CLUSTER_LISTEN and TG_NATS_ROUTES, or TG_NATS_REPLICAS=1.",
            )
        return Node(
            name=self.nats_node,
            listen=self.nats_listen,
            mqtt=self.mqtt,
            trust_domain=trust_domain,
            issuer=keys.issuer,
            xkey=keys.xkey,
            files=self.files,
            connections=self.nats_connections,
            stored_bytes=self.nats_stored_bytes,
            replicas=self.nats_replicas,
            cluster=cluster,
            log=self.log_path,
        )

    def _cluster(self) -> Cluster | None:
        routes = [route.strip() for route in self.nats_routes.split(",") if route.strip()]
        if (self.nats_cluster_listen is None) != (not routes):
            raise BadNodeSettings("TG_NATS_CLUSTER_LISTEN and TG_NATS_ROUTES belong together")
        if self.nats_cluster_listen is None:
            return None
        for route in routes:
            try:
                split_address(route)
            except ValueError:
                raise BadNodeSettings(f"TG_NATS_ROUTES: '{route}' is not host:port") from None
        return Cluster(self.nats_cluster_name, self.nats_cluster_listen, routes)


class KeeperSettings(NodeSettings):
    """The same, with the database that the node's certificate is asked for through."""

    database_url: str
