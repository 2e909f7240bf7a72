"""ETag and If-Match (RFC 9110 13.1.1): no update overwrites what its author has not read."""

import hashlib

from pydantic import BaseModel

from api.errors import RevisionChanged, RevisionRequired


def revision_etag(revision: int) -> str:
    """Return the strong ETag of a row that counts its revisions."""
    return f'"{revision}"'


def content_etag(view: BaseModel) -> str:
    """Return the strong ETag of a view whose row does not."""
    return f'"{hashlib.sha256(view.model_dump_json().encode()).hexdigest()[:32]}"'


def require_match(if_match: str | None, current: str) -> None:
    """Go on only if the caller has seen the current revision.

    Raises: RevisionRequired, RevisionChanged.
    """
    if if_match is None:
        raise RevisionRequired("this update needs an If-Match header")
    if current not in (tag.strip() for tag in if_match.split(",")):
        raise RevisionChanged("it was changed since it was read")
