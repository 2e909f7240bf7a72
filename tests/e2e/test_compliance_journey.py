"""What a compliance officer does: from the sunburst to the agents, and a report on paper."""

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.running import tensorguard

pytestmark = pytest.mark.timeout(300)


def test_the_sunburst_leads_to_agents_and_a_printed_report_to_its_proofs(
    journey: Callable[..., dict[str, Any]], operator: Operator, tmp_path: Path
) -> None:
    fleet = f"f-{secrets.token_hex(4)}"
    operator.create_fleet(fleet)
    join = operator.mint(fleet, max_uses=3)
    devices = [Device(tmp_path / name) for name in ("one", "two", "lost")]
    for device in devices:
        assert device.enroll(join).status_code == 201
    lost = devices[-1].agent_id
    operator.post(f"agents/{lost}/revoke", {"reason": "Left in a <b>taxi</b>"})
    receipt = operator.wait_entry("agent.revocation-confirmed", subject=str(lost))
    journey("compliance", fleet=fleet)
    printed = " ".join(page.extract_text() for page in PdfReader(tmp_path / "report.pdf").pages)
    printed = re.sub(r"\s+", "", printed)
    for text in (f"Compliance report: {fleet}", str(lost), "Left in a <b>taxi</b>", "Receipts"):
        assert text.replace(" ", "") in printed
    key = operator.http.get("/api/v1/ledger/key").text.strip()
    evidence = str(tmp_path / "evidence.ndjson.zst")
    done = tensorguard("ledger", "verify", evidence, "--key", key, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["first_index"] <= receipt["leaf_index"] <= verdict["last_index"]
    journey("accessibility", isAll=False, pages=["/", "/compliance?period=own"], dialogs=[])
