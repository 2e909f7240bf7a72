"""What the hub needs to know, from the environment (`TG_…`) or from the caller."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tensorguard.protocol.messages import MqttAddress
from tensorguard.services.certificates.service_certificates import allowed_hosts
from tensorguard.services.evidence.bucket import BucketSettings, CheckpointBucket


class HubSettings(BaseSettings):
    """Frozen; built once in main and handed down."""

    model_config = SettingsConfigDict(env_prefix="TG_", frozen=True, extra="ignore")

    database_url: str
    data_dir: Path
    mqtt: str = Field(default="127.0.0.1:8883", description="host:port of the broker front")
    public_host: str = "127.0.0.1"
    broker_enroll: str = Field(default="", description="host:port where devices enrol over MQTT")
    front_hosts: str = Field(
        default="", description="further names that broker fronts may be certified for"
    )
    device: str = Field(default="127.0.0.1:8443", description="host:port of the device listener")

    broker_engine: Literal["embedded", "nats"] = "embedded"
    nats_url: str = Field(
        default="tls://127.0.0.1:4222", description="NATS servers, separated by commas"
    )
    nats_partitions: int = Field(
        default=16, ge=1, le=256, description="of the stream; fixed once it is made"
    )
    nats_replicas: int = Field(default=1, ge=1, le=5)
    # Above one of these the stream drops its oldest messages, committed or not.
    nats_stream_bytes: int = Field(default=4 * 1024**3, ge=16 * 1024**2)
    nats_stream_age: timedelta = timedelta(hours=24)

    hub_metrics: str | None = Field(
        default=None, description="host:port of /metrics; none unless given"
    )

    ledger_bucket: str | None = Field(
        default=None, description="S3 bucket with Object Lock that checkpoints go to"
    )
    ledger_bucket_prefix: str = ""
    ledger_bucket_endpoint: str | None = Field(
        default=None, description="URL of an S3 that is not Amazon's"
    )
    ledger_bucket_retention: timedelta = timedelta(days=3650)
    ledger_bucket_every: timedelta = timedelta(minutes=10)

    sink_networks: str = Field(
        default="", description="networks that sinks may be in though they are not public"
    )

    batch_messages: int = Field(default=500, ge=1, le=5_000)
    flush_after: timedelta = timedelta(milliseconds=200)
    # What one hub holds in memory at most: above it, it stops reading from the broker.
    intake_limit: int = Field(default=5_000, ge=1, le=100_000)
    downlink_limit: int = Field(default=20_000, ge=1, le=1_000_000)

    def checkpoint_bucket(self) -> CheckpointBucket | None:
        """Where checkpoints are locked away, if anywhere. Raises: BucketLibraryMissing."""
        if self.ledger_bucket is None:
            return None
        return CheckpointBucket(
            BucketSettings(
                name=self.ledger_bucket,
                prefix=self.ledger_bucket_prefix,
                retention=self.ledger_bucket_retention,
                endpoint_url=self.ledger_bucket_endpoint,
            )
        )

    @property
    def mqtt_address(self) -> MqttAddress:
        """Where devices find the broker front."""
        return MqttAddress(host=self._public_name, port=int(self.mqtt.rpartition(":")[2]))

    @property
    def device_url(self) -> str:
        """Where devices find the api."""
        name = self._public_name
        host = f"[{name}]" if ":" in name else name
        return f"https://{host}:{self.device.rpartition(':')[2]}"

    @property
    def hosts_of_fronts(self) -> frozenset[str]:
        """What broker fronts may be certified for."""
        listening = (address.rpartition(":")[0] for address in (self.mqtt, self.broker_enroll))
        return allowed_hosts(self.public_host, self.front_hosts, *listening)

    @property
    def nats_urls(self) -> list[str]:
        """The NATS servers that this hub may connect to."""
        return [url.strip() for url in self.nats_url.split(",") if url.strip()]

    @property
    def _public_name(self) -> str:
        return self.public_host.split(",")[0].strip()
