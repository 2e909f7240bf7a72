"""What a list, a count and an export of entries are asked for by."""

from typing import Annotated, Literal

from fastapi import Depends, Query
from pydantic import AwareDatetime, StringConstraints

from api.fleets.views import Slug
from tensorguard.services.evidence.filters import EntryFilter

TypePrefix = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,99}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/ -]{1,200}$")]
Index = Annotated[int, Query(ge=0, lt=2**53)]
End = Annotated[int | None, Query(ge=0, lt=2**53, description="Exclusive.")]
Epoch = Annotated[
    int | None,
    Query(ge=1, lt=2**53, description="Of the ledger; the present one unless given."),
]


def entry_filter(
    type: Annotated[
        list[TypePrefix] | None,
        Query(
            max_length=50,
            description="Types, or their dotted beginnings: `agent.reported`; repeatable.",
        ),
    ] = None,
    without: Annotated[
        list[TypePrefix] | None,
        Query(max_length=50, description="Types that are left out, given in the same way."),
    ] = None,
    fleet: Annotated[Slug | None, Query()] = None,
    subject: Annotated[Id | None, Query(description="What it happened to, by its id.")] = None,
    actor: Annotated[Id | None, Query(description="Who did it, by their id.")] = None,
    outcome: Annotated[
        list[Literal["success", "failure", "denied"]] | None, Query(max_length=3)
    ] = None,
    not_before: Annotated[
        AwareDatetime | None, Query(description="Since this time of the hub, inclusive.")
    ] = None,
    before: Annotated[
        AwareDatetime | None, Query(description="Until this time of the hub, exclusive.")
    ] = None,
) -> EntryFilter:
    """Return what was asked for; all that is given has to hold."""
    return EntryFilter(
        type_prefixes=type or (),
        without=without or (),
        fleet=fleet,
        subject_id=subject,
        actor_id=actor,
        outcomes=outcome or (),
        not_before=not_before,
        before=before,
    )


Filter = Annotated[EntryFilter, Depends(entry_filter)]
