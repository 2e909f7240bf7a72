"""A sink of the kind `stdout`: what `tensorguard up` prints is entries and nothing else."""

import hashlib
import json
from typing import Any

from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform
from tests.integration.platform.waiting import wait_until


def test_entries_stand_on_the_standard_output_of_up_and_not_in_its_log(
    platform: RunningPlatform, operator: Operator
) -> None:
    sink = operator.post("sinks", {"name": "shipper", "config": {"kind": "stdout"}})
    assert operator.post(f"sinks/{sink['id']}/test")["accepted"]

    def entries() -> list[dict[str, Any]]:
        return [json.loads(line) for line in platform.printed()]

    wait_until(
        lambda: any(one["metadata"]["event_code"] == "sink.tested" for one in entries()),
        "the entry that the sink was tested",
    )
    operator.http.delete(f"/api/v1/sinks/{sink['id']}").raise_for_status()
    codes = [one["metadata"]["event_code"] for one in entries()]
    assert codes.count("sink.test") == 1  # the test's own, by the api
    for one in entries():
        if "raw_data" in one:
            leaf = hashlib.sha256(b"\0" + one["raw_data"].encode()).hexdigest()
            assert one["unmapped"]["integrity"]["leaf_hash"] == leaf
    assert not [record for record in platform.log_records() if "class_uid" in record]
