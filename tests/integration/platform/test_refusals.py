"""What is refused at the door is counted; here, at the end, the first minutes' counts are there."""

import json
import secrets
from pathlib import Path

from tests.integration.platform.device import Device, read_join, write_join
from tests.integration.platform.operator import Operator


def test_a_refused_enrollment_is_in_the_ledger_as_a_count(
    operator: Operator, fleet: str, tmp_path: Path
) -> None:
    parts = read_join(operator.mint(fleet))
    wrong = write_join(parts | {"token": secrets.token_urlsafe(32)})
    assert Device(tmp_path / "device").enroll(wrong).json()["code"] == "enrollment-token-unknown"
    # That of a minute which is over: test_bad_input.py's, or in a minute this one's.
    entry = operator.wait_entry("agent.enrollment-failed", within_s=90)
    assert entry["details"]["count"] >= 1
    assert parts["token"] not in json.dumps(entry)
