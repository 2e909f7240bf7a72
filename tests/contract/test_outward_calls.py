"""Who may call out: every module that can open a connection by itself is known, with its reason.

Whoever may set an address over the API must not lead the platform to where it is not to call. So
what takes an address from there is guarded, and what is new here has to say how.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = ("api", "hub", "broker", "tensorguard")
CALLS_OUT = {
    *("aiohttp", "aiomqtt", "azure", "boto3", "botocore", "google", "httpcore", "httpx", "nats"),
    *("paho", "requests", "smtplib", "socket", "urllib3", "http.client", "urllib.request"),
    *("open_connection", "create_connection"),
}
KNOWN = {
    "api/serve.py": "it listens",
    "broker/embedded": "it listens",
    "hub/mqtt_uplink.py": "the broker front, by this process's settings",
    "hub/nats": "NATS servers, by this process's settings",
    "broker/nats": "NATS servers, by this process's settings",
    "tensorguard/cli": "by whoever runs the command",
    "tensorguard/services/evidence/bucket.py": "S3, by this process's settings",
    "tensorguard/store/bucket.py": "S3, by this process's settings",
    "tensorguard/siem/address_guard.py": "the guard itself: it resolves names",
    "tensorguard/siem/answer.py": "only errors of what is guarded",
    "tensorguard/siem/http_client.py": "sinks: guarded",
    "tensorguard/siem/syslog.py": "sinks: guarded",
    "tensorguard/vault/aws.py": "KMS of AWS: of a key's name only the region counts",
    "tensorguard/vault/azure.py": "vaults under Azure's domains, or those of the settings",
    "tensorguard/vault/gcp.py": "KMS of Google: one host",
}


def test_every_module_that_can_call_out_is_known() -> None:
    found = {
        str(path.relative_to(ROOT))
        for service in SERVICES
        for path in (ROOT / service).rglob("*.py")
        if _names(path) & CALLS_OUT
    }
    unknown = {one for one in found if not any(one.startswith(known) for known in KNOWN)}
    assert unknown == set()
    assert [one for one in KNOWN if not any(path.startswith(one) for path in found)] == []


def _names(path: Path) -> set[str]:
    """What is imported, as a whole and by its package, and the names of attributes."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                modules = [one.name for one in node.names]
            case ast.ImportFrom(module=str(module)):
                modules = [module, *(f"{module}.{one.name}" for one in node.names)]
            case ast.Attribute(attr=name):
                modules = [name]
            case _:
                continue
        names |= {*modules, *(module.partition(".")[0] for module in modules)}
    return names
