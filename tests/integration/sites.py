"""What the tests of either engine share: what a hub hears, and the front's name."""

from typing import Final, NamedTuple

from tensorguard.protocol.messages import FrontConnected, FrontDenied, FrontDisconnected

FRONT_ID: Final = "front-under-test"
REPORTS: Final = {
    "connected": FrontConnected,
    "disconnected": FrontDisconnected,
    "denied": FrontDenied,
}
Report = FrontConnected | FrontDenied | FrontDisconnected


class Heard(NamedTuple):
    """A message as a hub gets it."""

    topic: str
    payload: bytes
