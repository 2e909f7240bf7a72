"""KEKs and rewrap jobs as the api shows them, and what may be asked of them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Base64Bytes, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession

from api.views import Body, Line, View
from tensorguard.protocol.topics import FLEET_PATTERN
from tensorguard.services.keys import rewrap_jobs
from tensorguard.services.keys.kek_trouble import TAKEN_AWAY
from tensorguard.services.keys.keks import Kek, count_uses, list_versions
from tensorguard.vault.reference import ProviderName

VERSION_PATTERN = r"^[A-Za-z0-9-]{1,128}$"
Reference = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[!-~]+$")]


class RewrapJobView(View):
    """A job that moves secrets: `left` are still to be moved; `code` and `reason`: why it waits."""

    id: UUID
    kek_id: UUID
    kind: str
    state: Literal["running", "done", "failed"]
    per_second: int
    total: int
    moved: int
    failed: int
    left: int
    code: str | None
    reason: str | None
    retry_at: datetime | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    finished_at: datetime | None


class ProviderView(View):
    """A kind of key provider; `extra` is what has to be installed, `form` how its keys are named.

    Where versions can be neither disabled nor destroyed, only whole keys can, at the provider.
    """

    name: ProviderName
    form: str
    installed: bool
    extra: str | None
    disables_versions: bool
    destroys_versions: bool


class KekUse(View):
    """What secrets are for, such as `dek` or `ca-key`, and how many are."""

    purpose: str
    secrets: int


class KekView(View):
    """A KEK: `secrets` are under it, `misplaced` should be under its present version and are not.

    `trouble_code` says why it cannot be used. Where it is `taken_away`, its fleet gets no grants.
    """

    id: UUID
    fleet: str | None
    provider: str
    key_id: str
    reference: str
    origin: str
    state: str
    key_version: str | None
    key_state: str
    expires_at: datetime | None
    checked_at: datetime | None
    trouble_code: str | None
    trouble_reason: str | None
    trouble_since: datetime | None
    created_at: datetime
    created_by: str
    retired_at: datetime | None
    taken_away: bool
    secrets: int
    uses: list[KekUse]
    misplaced: int
    job: RewrapJobView | None


class KekVersionView(View):
    """A version of a KEK, and how many secrets are under it."""

    version: str
    state: str
    first_seen_at: datetime
    secrets: int
    is_current: bool


class KekDetail(KekView):
    """A KEK with its versions, in the order in which they were seen."""

    versions: list[KekVersionView]


class KekAdd(Body):
    """A KEK of a fleet's own: `aws:ARN`, `azure:URL`, `gcp:RESOURCE`; `local`: to be imported."""

    fleet: Annotated[str, StringConstraints(pattern=FLEET_PATTERN)]
    reference: Reference


class Migrate(Body):
    """The key that the platform's secrets move to, and how many a second."""

    reference: Reference
    per_second: int = Field(
        default=rewrap_jobs.DEFAULT_PER_SECOND, ge=1, le=rewrap_jobs.MAX_PER_SECOND
    )


class Rewrap(Body):
    """How many secrets a second are moved."""

    per_second: int = Field(
        default=rewrap_jobs.DEFAULT_PER_SECOND, ge=1, le=rewrap_jobs.MAX_PER_SECOND
    )


class ImportParametersView(View):
    """What 'tensorguard keys wrap-for-import' takes: a public key, and a token for the import."""

    provider: str
    key_id: str
    algorithm: str
    public_key_pem: str
    token: str
    valid_until: datetime
    material: str


class ImportMaterial(Body):
    """Wrapped key material as 'tensorguard keys wrap-for-import' has written it."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=8192, pattern=r"^[!-~]+$")]
    wrapped: Annotated[Base64Bytes, Field(min_length=64, max_length=16 * 1024)]
    expires_at: AwareDatetime | None = None


class DestroyVersion(Body):
    """Why a version of a KEK is destroyed."""

    reason: Line


async def kek_view(session: AsyncSession, kek: Kek) -> KekDetail:
    """Return one KEK with its versions."""
    (view,) = await kek_views(session, [kek])
    versions = [
        KekVersionView(
            version=one.version,
            state=one.state,
            first_seen_at=one.first_seen_at,
            secrets=one.secrets,
            is_current=one.version == kek.key_version,
        )
        for one in await list_versions(session, kek)
    ]
    return KekDetail(**view.model_dump(), versions=versions)


async def kek_views(session: AsyncSession, keks: list[Kek]) -> list[KekView]:
    """Return KEKs with their counts and last jobs."""
    uses = await count_uses(session, keks)
    misplaced = await rewrap_jobs.count_all_misplaced(session)
    jobs = await rewrap_jobs.list_latest_jobs(session)
    views = []
    for kek in keks:
        left, job = misplaced.get(kek.id, 0), jobs.get(kek.id)
        views.append(
            KekView(
                **{name: getattr(kek, name) for name in _OF_KEK},
                reference=f"{kek.provider}:{kek.key_id}",
                taken_away=kek.trouble_code in TAKEN_AWAY,
                secrets=sum(uses[kek.id].values()),
                uses=[
                    KekUse(purpose=purpose, secrets=count)
                    for purpose, count in sorted(uses[kek.id].items())
                ],
                misplaced=left,
                job=None if job is None else _job_view(job, left),
            )
        )
    return views


async def job_view(session: AsyncSession, job: rewrap_jobs.RewrapJob, kek: Kek) -> RewrapJobView:
    """Return a job with what is left to do."""
    return _job_view(job, await rewrap_jobs.count_misplaced(session, kek))


def _job_view(job: rewrap_jobs.RewrapJob, left: int) -> RewrapJobView:
    values = {name: getattr(job, name) for name in RewrapJobView.model_fields if name != "left"}
    return RewrapJobView(**values, left=0 if job.state == "done" else left)


_OF_KEK = tuple(
    name
    for name in KekView.model_fields
    if name not in ("reference", "taken_away", "secrets", "uses", "misplaced", "job")
)
