"""One MQTT session over mutual TLS: paho in a thread of its own, reporting to a mailbox."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.core.backoff import REFUSED_WITHIN_S
from agent.core.effects import Publish
from agent.errors import NotTheServer
from agent.runtime.https import check_validity

KEEP_ALIVE_S = 60
CONNECT_TIMEOUT_S = 15.0
MAX_QUEUED = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Broker:
    """Where to connect, and as whom."""

    host: str
    port: int
    client_id: str
    filters: tuple[str, ...]
    will: Publish | None
    tls: ssl.SSLContext
    agent_time: datetime | None = None  # where the system clock is known to be behind


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session has ended, or could not be had.

    `refused`: the broker answered "not authorized", and at once. `disbelieved`: its certificate is
    of no CA that we know.
    """

    reason: str
    refused: bool
    disbelieved: bool


@dataclass(frozen=True, slots=True)
class Handlers:
    """Called from the connection's thread; `ended` exactly once, last."""

    connected: Callable[[], None]
    message: Callable[[str, bytes], None]
    ended: Callable[[Ended], None]


class Connection:
    """A session that is tried once: it is never taken up again after it ended."""

    def __init__(self, broker: Broker, handlers: Handlers) -> None:
        self._broker = broker
        self._handlers = handlers
        self._reason = "closed"
        self._closing = threading.Event()
        self._refused = False
        self._asked_s = time.monotonic()
        self._disbelieved = False
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=broker.client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._client.max_queued_messages_set(MAX_QUEUED)
        self._client.tls_set_context(broker.tls)
        if broker.will is not None:
            self._client.will_set(broker.will.topic, broker.will.payload, qos=1, retain=False)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def open(self) -> None:
        """Begin to connect; `connected` or `ended` will be called."""
        self._thread.start()

    def publish(self, publish: Publish) -> None:
        """Send at QoS 1; what the connection cannot take is dropped, as nothing has to arrive."""
        info = self._client.publish(publish.topic, publish.payload, qos=1, retain=False)
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN):
            log.warning("message_dropped", topic=publish.topic, reason=paho.error_string(info.rc))

    def close(self, reason: str) -> None:
        """Send DISCONNECT, so that the will is not published; if need be, once connected."""
        self._reason = reason
        self._closing.set()
        self._client.disconnect()

    def join(self, timeout_s: float) -> None:
        """Wait until the session has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._client.connect(self._broker.host, self._broker.port, keepalive=KEEP_ALIVE_S)
            self._asked_s = time.monotonic()
            self._client.loop_forever(retry_first_connection=False)
        except ssl.SSLCertVerificationError as error:
            self._reason = f"the broker's certificate is not believed: {error.verify_message}"
            self._disbelieved = True
        except (OSError, ValueError) as error:
            self._reason = str(error) or type(error).__name__
        finally:
            self._handlers.ended(Ended(self._reason, self._refused, self._disbelieved))

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: object,
    ) -> None:
        if reason.is_failure:
            self._reason = f"the broker refused the connection: {reason}"
            waited_s = time.monotonic() - self._asked_s
            self._refused = reason == "Not authorized" and waited_s < REFUSED_WITHIN_S
            return
        if self._closing.is_set():  # what paho was told before it had connected is forgotten
            client.disconnect()
            return
        tls = client.socket()
        if self._broker.agent_time is not None and isinstance(tls, ssl.SSLSocket):
            try:
                check_validity(tls, self._broker.agent_time)
            except NotTheServer as error:
                self.close(error.message)
                return
        client.subscribe([(one, 0) for one in self._broker.filters])

    def _on_subscribe(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reasons: list[ReasonCode],
        properties: object,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self.close("the broker refused a subscription")
            return
        self._handlers.connected()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._handlers.message(message.topic, bytes(message.payload))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        properties: object,
    ) -> None:
        if reason.is_failure and self._reason == "closed":
            self._reason = f"connection lost: {reason}"
