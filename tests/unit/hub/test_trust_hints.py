from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from hub.batch import From
from hub.downlink import Downlinks
from hub.trust_hints import BURST, PER_SECOND, TrustHints
from tensorguard.protocol import codec
from tensorguard.protocol.messages import Heartbeat
from tensorguard.protocol.topics import UpKind
from tests.unit.protocol.builders import GOOD

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def beats(count: int, version: int) -> list[From[Heartbeat]]:
    body = dict(GOOD[UpKind.HEARTBEAT])
    body["has"] = dict(body["has"]) | {"trust": version}
    message = codec.decode(Heartbeat, msgspec.json.encode(body))
    return [From("f", UUID(int=number), message, NOW) for number in range(count)]


def test_only_who_is_behind_is_told() -> None:
    hints, downlinks = TrustHints(), Downlinks()
    mixed = [*beats(2, version=4), *beats(3, version=5), *beats(1, version=6)]
    assert hints.tell(mixed, 5, downlinks, NOW) == 2
    assert {one.payload for one in downlinks.items} == {b'{"version":5}'}
    assert all(one.topic.endswith("/down/trust-version") for one in downlinks.items)


def test_so_many_are_told_at_once_and_the_rest_with_time() -> None:
    hints = TrustHints()
    many = beats(1000, version=1)
    assert hints.tell(many, 2, Downlinks(), NOW) == BURST
    assert hints.tell(many, 2, Downlinks(), NOW) == 0
    assert hints.tell(many, 2, Downlinks(), NOW + timedelta(seconds=1)) == PER_SECOND
    assert hints.tell(many, 2, Downlinks(), NOW - timedelta(seconds=9)) == 0, "the clock was set"
