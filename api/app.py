"""The application for people and programs: `uvicorn api.app:create_app --factory`."""

from fastapi import FastAPI

from api.actors.routes import router as actors
from api.agents.admission import router as agent_admission
from api.agents.commands import router as agent_commands
from api.agents.history import router as agent_history
from api.agents.moves import router as agent_moves
from api.agents.routes import router as agents
from api.api_keys.routes import router as api_keys
from api.application import build
from api.approvals.routes import router as approvals
from api.compliance.reports import router as compliance_reports
from api.compliance.routes import router as compliance
from api.context import ApiContext
from api.crl.routes import router as crl
from api.deployments.export import router as deployment_export
from api.deployments.moves import router as deployment_moves
from api.deployments.routes import router as deployments
from api.deployments.way_back import router as deployment_way_back
from api.enrollment_tokens.routes import router as enrollment_tokens
from api.events.routes import router as events
from api.fleets.revocations import router as fleet_revocations
from api.fleets.routes import router as fleets
from api.keys.routes import router as keys
from api.ledger.auditing import router as ledger_auditing
from api.ledger.private import router as ledger_private
from api.ledger.routes import router as ledger
from api.manufacturers.routes import router as manufacturers
from api.openapi import describe
from api.operations.routes import router as operations
from api.overview.routes import router as overview
from api.packages.routes import router as packages
from api.packages.upload_routes import router as package_uploads
from api.publishers.routes import router as publishers
from api.recoveries.routes import router as recoveries
from api.releases.routes import router as releases
from api.session.routes import router as session
from api.session.second_factor import router as second_factor
from api.settings import ApiSettings, load_settings
from api.sinks.routes import router as sinks
from api.trust.routes import router as trust
from api.ui.assets import read_assets
from api.ui.pages import Ui
from api.users.routes import router as users

ROUTERS = (
    session,
    second_factor,
    overview,
    compliance,
    compliance_reports,
    fleets,
    fleet_revocations,
    enrollment_tokens,
    manufacturers,
    agents,
    agent_admission,
    agent_history,
    agent_commands,
    agent_moves,
    recoveries,
    crl,
    publishers,
    keys,
    package_uploads,  # before packages, whose digests would be read into its path
    packages,
    releases,
    deployments,
    deployment_moves,
    deployment_export,
    deployment_way_back,
    approvals,
    ledger,
    ledger_auditing,
    ledger_private,
    sinks,
    trust,
    events,
    users,
    api_keys,
    actors,
    operations,
)


def create_app(
    settings: ApiSettings | None = None, *, context: ApiContext | None = None
) -> FastAPI:
    """Return the people's listener; settings come from the environment unless given."""
    settings = settings or load_settings()
    app = build(
        ROUTERS,
        settings=settings,
        context=context,
        listener="people",
        openapi_url="/api/openapi.json",
        hsts=settings.is_https,
    )
    describe(app, ROUTERS, settings)
    # What no route takes, so that nothing here needs a permission or hides a route.
    app.router.default = Ui(read_assets())
    return app
