"""The embedded engine as the broker's process starts it."""

import logging
import resource
from dataclasses import replace
from typing import Final

import structlog

from broker.embedded.enrollment import LIMITS as ENROLLMENT
from broker.embedded.front import Front, FrontSetup
from broker.embedded.limits import Limits
from broker.embedded.metrics import FrontMetrics
from broker.engine import Engine, Standing
from broker.settings import BrokerSettings

_log = structlog.get_logger()
_REFUSAL_BURST_S: Final = 10
# Sockets of the database, logs, the metrics listener, the loop itself; devices that enrol.
_OTHER_DESCRIPTORS: Final = 100 + ENROLLMENT.connections + ENROLLMENT.pending + ENROLLMENT.held


def build(standing: Standing) -> Engine:
    """Return a front that listens by itself once it is started."""
    # Its warnings are about what clients did, which the front counts and reports itself.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    settings, trust = standing.settings, standing.trust
    host, port = settings.address
    front = Front(
        FrontSetup(
            front_id=settings.broker_front_id,
            host=host,
            port=port,
            trust_domain=trust.trust_domain,
            tls=trust.server_context,
            cas=lambda: trust.cas,
            denied=standing.denied,
            limits=_fitting(_limits_of(settings)),
            metrics=FrontMetrics(standing.registry),
            clock=standing.clock,
        )
    )
    return Engine(front, front.router)


def _fitting(limits: Limits) -> Limits:
    """Raise the limit of open files as far as allowed, and hold no more connections than fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _beside(limits)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        soft = max(soft, allowed)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    fitting = max(1, soft - _beside(limits))
    _log.warning(
        "fewer_connections_fit", wanted=limits.connections, connections=fitting, files=soft
    )
    return replace(limits, connections=fitting)


def _limits_of(settings: BrokerSettings) -> Limits:
    per_s = settings.broker_refusals_per_s
    return Limits(
        connections=settings.broker_connections,
        refusals_per_s=per_s,
        refusal_burst=round(_REFUSAL_BURST_S * per_s),
    )


def _beside(limits: Limits) -> int:
    return limits.pending + limits.held + _OTHER_DESCRIPTORS
