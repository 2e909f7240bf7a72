"""The NATS engine as the broker's process starts it."""

import logging

from broker.engine import Engine, Standing
from broker.errors import FrontError
from broker.nats.front import NatsFront, NatsSetup
from broker.nats.keys import CalloutKeys
from broker.nats.metrics import NatsMetrics


class NoCalloutKeys(FrontError):
    """A front of a NATS node was started without the keys that its answers are signed with."""

    code = "no-callout-keys"
    hint = "Name the file that 'tensorguard broker nats-keys' has made in TG_NATS_KEYS."


def build(standing: Standing) -> Engine:
    """Return the front of the node that the settings name.

    Raises: NoCalloutKeys, CalloutKeysDamaged.
    """
    # It tells of every failed try to connect with a traceback; the link tells of it once.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    settings, trust = standing.settings, standing.trust
    if settings.nats_keys is None:
        raise NoCalloutKeys("TG_NATS_KEYS is not set")
    front = NatsFront(
        NatsSetup(
            front_id=settings.broker_front_id,
            url=settings.nats_url,
            address=settings.address,
            trust_domain=trust.trust_domain,
            keys=CalloutKeys.load(settings.nats_keys),
            tls=trust.client_context,
            cas=lambda: trust.cas,
            denied=standing.denied,
            log=settings.nats_log,
            metrics=NatsMetrics(standing.registry),
            clock=standing.clock,
        )
    )
    return Engine(front, front.router)
