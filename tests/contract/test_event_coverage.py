"""No event, no change: every route and hub action that changes data names the events it writes."""

import ast
import dataclasses
import inspect
import json
import re
from pathlib import Path

from api.device.joining import router as joining
from api.device.recovering import router as recovering
from api.document import openapi_document
from hub.batch import Batch
from hub.loops import make_loops
from tensorguard.services.evidence.catalogue import list_event_types, render

DOCS = Path(__file__).parents[2] / "docs"
CHANGES = ("post", "put", "patch", "delete")

# What each route writes; `none:` says why one of them has nothing to write.
V1 = "/api/v1"
ROUTES = {
    f"POST {V1}/agents/decide": "agent.approved agent.rejected",
    f"POST {V1}/agents/{{agent_id}}/approve": "agent.approved",
    f"POST {V1}/agents/{{agent_id}}/commands": "command.issued",
    f"POST {V1}/agents/{{agent_id}}/move": "agent.move-ordered",
    f"DELETE {V1}/agents/{{agent_id}}/move": "agent.move-cancelled",
    f"POST {V1}/agents/{{agent_id}}/reject": "agent.rejected",
    f"POST {V1}/agents/{{agent_id}}/release": "agent.released",
    f"POST {V1}/agents/{{agent_id}}/revoke": "agent.revoked",
    f"POST {V1}/api-keys": "api-key.created",
    f"DELETE {V1}/api-keys/{{key_id}}": "api-key.revoked",
    f"POST {V1}/approvals/{{approval_id}}/approve": "approval.approved",
    f"POST {V1}/approvals/{{approval_id}}/reject": "approval.rejected",
    f"POST {V1}/deployments": (
        "deployment.created deployment.started deployment.scheduled deployment.approval-asked"
    ),
    f"POST {V1}/deployments/preview": "none: it counts, and stores nothing",
    f"POST {V1}/deployments/{{deployment_id}}/abort": "deployment.aborted",
    f"POST {V1}/deployments/{{deployment_id}}/advance": "deployment.advanced",
    f"POST {V1}/deployments/{{deployment_id}}/pause": "deployment.paused",
    f"POST {V1}/deployments/{{deployment_id}}/resume": "deployment.resumed",
    f"POST {V1}/deployments/{{deployment_id}}/retry-failed": "deployment.retried",
    f"POST {V1}/deployments/{{deployment_id}}/rollback": "deployment.rolling-back",
    f"POST {V1}/deployments/{{deployment_id}}/start": (
        "deployment.started deployment.scheduled deployment.approval-asked"
    ),
    f"POST {V1}/fleets": "fleet.created fleet.config-changed",
    f"PATCH {V1}/fleets/{{fleet}}": "fleet.config-changed",
    f"POST {V1}/fleets/{{fleet}}/enrollment-tokens": "token.created",
    f"DELETE {V1}/fleets/{{fleet}}/enrollment-tokens/{{token_id}}": "token.revoked",
    f"POST {V1}/fleets/{{fleet}}/manufacturer-cas": "manufacturer-ca.registered",
    f"DELETE {V1}/fleets/{{fleet}}/manufacturer-cas/{{manufacturer_ca_id}}": (
        "manufacturer-ca.revoked"
    ),
    f"POST {V1}/fleets/{{fleet}}/manufacturer-cas/{{manufacturer_ca_id}}/prove": (
        "manufacturer-ca.proven manufacturer-ca.activated"
    ),
    f"POST {V1}/fleets/{{fleet}}/require-approval": "fleet.approval-set",
    f"POST {V1}/fleets/{{fleet}}/revoke": "fleet.revoked agent.revoked",
    f"POST {V1}/fleets/{{fleet}}/waive-approval": "approval.requested fleet.approval-set",
    f"POST {V1}/keys": "kek.added",
    f"POST {V1}/keys/migrate": "kek.replaced kek.added kek.rewrap-started",
    f"DELETE {V1}/keys/{{kek_id}}": "kek.retired",
    f"POST {V1}/keys/{{kek_id}}/check": "kek.usable kek.unusable",
    f"POST {V1}/keys/{{kek_id}}/import": "kek.imported",
    f"POST {V1}/keys/{{kek_id}}/import-parameters": "none: the provider answers, nothing is kept",
    f"POST {V1}/keys/{{kek_id}}/rewrap": "kek.rewrap-started",
    f"POST {V1}/keys/{{kek_id}}/rotate": "kek.rotated",
    f"POST {V1}/keys/{{kek_id}}/versions/{{version}}/destroy": "kek.version-destroyed",
    f"POST {V1}/keys/{{kek_id}}/versions/{{version}}/disable": "kek.version-disabled",
    f"POST {V1}/keys/{{kek_id}}/versions/{{version}}/enable": "kek.version-enabled",
    f"POST {V1}/ledger/private": "ledger.private-read",
    f"POST {V1}/ledger/erasures": "ledger.subject-erased",
    f"POST {V1}/packages": "package.uploaded package.refused",
    f"PUT {V1}/packages": "package.uploaded package.refused",
    f"POST {V1}/packages/uploads": "none: bytes on their way; what becomes of them is an event",
    f"PATCH {V1}/packages/uploads/{{upload_id}}": "package.uploaded package.refused",
    f"DELETE {V1}/packages/uploads/{{upload_id}}": "none: bytes that never became a package",
    f"POST {V1}/publishers/{{kid}}/change": "publisher.changed",
    f"POST {V1}/publishers": "publisher.registered",
    f"POST {V1}/publishers/{{kid}}/revoke": "publisher.revoked",
    f"POST {V1}/recoveries/{{recovery_id}}/approve": "recovery.approved",
    f"POST {V1}/recoveries/{{recovery_id}}/reject": "recovery.rejected",
    f"POST {V1}/releases": "release.created",
    f"POST {V1}/releases/{{release_id}}/withdraw": "release.withdrawn",
    f"POST {V1}/session": "session.signed-in session.failed",
    f"DELETE {V1}/session": "session.signed-out",
    f"POST {V1}/session/second-factor": "second-factor.begun",
    f"DELETE {V1}/session/second-factor": "second-factor.removed",
    f"POST {V1}/session/second-factor/confirm": "second-factor.confirmed second-factor.failed",
    f"POST {V1}/session/step-up": "session.stepped-up second-factor.failed",
    f"POST {V1}/sinks": "sink.created",
    f"POST {V1}/sinks/test": "sink.tested",
    f"PATCH {V1}/sinks/{{sink_id}}": "sink.changed",
    f"DELETE {V1}/sinks/{{sink_id}}": "sink.deleted",
    f"POST {V1}/sinks/{{sink_id}}/pause": "sink.paused",
    f"POST {V1}/sinks/{{sink_id}}/resume": "sink.resumed",
    f"POST {V1}/sinks/{{sink_id}}/test": "sink.tested",
    f"POST {V1}/sinks/{{sink_id}}/replay": "sink.replayed",
    f"POST {V1}/sinks/{{sink_id}}/rotate-secret": "sink.secret-rotated",
    f"POST {V1}/sinks/{{sink_id}}/dead-letters/replay": "sink.dead-letters-replayed",
    f"POST {V1}/sinks/{{sink_id}}/dead-letters/{{letter_id}}/replay": (
        "sink.dead-letters-replayed"
    ),
    f"DELETE {V1}/sinks/{{sink_id}}/dead-letters/{{letter_id}}": "sink.dead-letter-discarded",
    f"POST {V1}/trust/bundles": "trust-bundle.published",
    f"POST {V1}/users": "user.created",
    f"PATCH {V1}/users/{{user_id}}": "user.role-changed",
    f"POST {V1}/users/{{user_id}}/disable": "user.disabled",
    f"POST {V1}/users/{{user_id}}/reset-password": "user.password-reset",
    f"DELETE {V1}/users/{{user_id}}/second-factor": "second-factor.reset",
}
DEVICE_ROUTES = {
    "/device/v1/enroll": "agent.enrolled agent.pending agent.enrollment-failed",
    "/device/v1/recover": "recovery.requested agent.recovered",
}
UPLINKS = {
    "heartbeats": "none: telemetry, kept as it comes; what it says of the ledger: see witness",
    "events": "agent.reported events.gap event.malformed event.conflict agent.flooding",
    "progress": "none: the deployment's own events tell what follows from it",
    "key_requests": "grant.issued grant.denied",
    "csrs": "agent.renewed agent.renewal-denied",
    "replies": "command.finished agent.tags-changed",
    "wills": "none: presence",
    "connected": "agent.moved agent.certificate-superseded",
    "disconnected": "none: presence",
    "denied": "agent.denied",
    "enrolls": "agent.enrolled agent.pending agent.enrollment-failed",
    "dead_letters": "message.poisoned",
}
LOOPS = {
    "outbox": "none: sends what is stored",
    "presence": "none: presence",
    "news": "none: hints for whoever watches",
    "rollouts": (
        "deployment.started deployment.advanced deployment.completed deployment.paused"
        " deployment.rolling-back deployment.rolled-back"
    ),
    "sequencer": "none: it is what makes entries of events",
    "settler": "agent.certificate-superseded agent.moved",
    "witness": "ledger.fork-seen",
    "upkeep": (
        "agent.flooding agent.revocation-confirmed agent.revocation-partial"
        " fleet.revocation-confirmed fleet.revocation-partial approval.expired fleet.config-changed"
    ),
    "certificate": "none: this process's own certificate, in memory",
    "keyring": "none: follows what is stored",
    "keks": "kek.usable kek.unusable kek.expiring",
    "rewrapper": "kek.rewrap-ended kek.rewrap-failed",
    "exporter": ("sink.failing sink.recovered sink.stopped sink.dead-lettered sink.gap"),
    "certifier": "service.certified service.certificate-refused",
}


def test_every_route_that_changes_data_names_its_events() -> None:
    paths = json.loads(openapi_document())["paths"]
    routes = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method in CHANGES
    }
    assert routes == set(ROUTES)
    device = {
        route.path  # type: ignore[attr-defined] # an APIRoute has one
        for router in (joining, recovering)
        for route in router.routes
        if "POST" in route.methods  # type: ignore[attr-defined] # as above
    }
    assert device == set(DEVICE_ROUTES)


def test_everything_that_agents_send_and_every_loop_of_the_hub_names_its_events() -> None:
    assert {field.name for field in dataclasses.fields(Batch)} == set(UPLINKS)
    assert _loops_of_the_hub() == set(LOOPS)


def test_the_named_events_are_in_the_catalogue() -> None:
    known = {kind.TYPE for kind in list_event_types()}
    for told in (ROUTES, DEVICE_ROUTES, UPLINKS, LOOPS):
        for place, names in told.items():
            if not names.startswith("none: "):
                assert set(names.split()) <= known, place


def test_no_two_events_have_one_name_and_none_can_be_an_agents() -> None:
    names = [kind.TYPE for kind in list_event_types()]
    assert len(names) == len(set(names))
    pattern = re.compile(r"[a-z]+(-[a-z]+)*(\.[a-z]+(-[a-z]+)*)+")
    assert [name for name in names if not pattern.fullmatch(name)] == []
    assert [name for name in names if name.startswith("agent.reported")] == ["agent.reported"]


def test_the_page_of_events_is_that_of_the_code() -> None:
    assert (DOCS / "events.md").read_text() == render(), "run: make event-docs"


def _loops_of_the_hub() -> set[str]:
    """The keys of the dictionary that make_loops returns."""
    for node in ast.walk(ast.parse(inspect.getsource(make_loops))):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            return {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    raise AssertionError("make_loops returns no dictionary of loops")
