"""An operator's program: the REST API with an API key, and the ledger as it can be verified."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tensorguard.ledger.checkpoint import (
    Checkpoint,
    VerifierKey,
    parse_verifier_key,
    verify_checkpoint,
)
from tensorguard.ledger.tree import Frontier, leaf_hash
from tests.integration.platform.waiting import wait_until
from tests.patience import PATIENCE_S

Json = dict[str, Any]
PAGE = 200


class Operator:
    """Whoever holds an API key; an unexpected answer is an AssertionError with the problem."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.api_key = api_key
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            trust_env=False,
            timeout=PATIENCE_S,
        )

    def get(self, path: str, **query: Any) -> Json:
        return self._json(self.http.get(f"/api/v1/{path}", params=query))

    def post(self, path: str, body: Json | None = None) -> Json:
        return self._json(self.http.post(f"/api/v1/{path}", json=body))

    def pages(self, path: str, **query: Any) -> Iterator[Json]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = self.get(path, limit=PAGE, **query, **more)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def is_ready(self) -> bool:
        """Whether the platform says that it can work."""
        try:
            return self.http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    # Fleets and agents

    def create_fleet(self, slug: str, *, heartbeat_interval_s: int = 2) -> None:
        self.post(
            "fleets", {"slug": slug, "name": slug, "heartbeat_interval_s": heartbeat_interval_s}
        )

    def mint(self, fleet: str, *, max_uses: int = 1, ttl_s: int = 600) -> str:
        """A join string."""
        answer = self.post(
            f"fleets/{fleet}/enrollment-tokens", {"ttl_s": ttl_s, "max_uses": max_uses}
        )
        return str(answer["join"])

    def agents(self, fleet: str) -> list[Json]:
        return list(self.pages("agents", fleet=fleet))

    def wait_online(self, fleet: str, count: int, *, within_s: float = PATIENCE_S) -> list[Json]:
        """The fleet's agents, once `count` of them are online."""

        def online() -> list[Json] | None:
            found = [agent for agent in self.agents(fleet) if agent["presence"] == "online"]
            return found if len(found) >= count else None

        return wait_until(online, f"{count} agents of {fleet} online", within_s=within_s)

    # Deployments

    def deploy(self, release_id: str, *fleets: str, strategy: Json | None = None) -> Json:
        """Start a deployment, to everybody in these fleets at once unless told otherwise."""
        strategy = strategy or {"stages": [{"percent": 100}]}
        body = {"release_id": release_id, "fleets": list(fleets), "strategy": strategy}
        return self.post("deployments", body)

    def wait_deployed(self, deployment_id: str, *, within_s: float = 90.0) -> Json:
        """The deployment once it has ended."""
        return self.wait_deployment(
            deployment_id, lambda found: bool(found["finished_at"]), within_s=within_s
        )

    def wait_deployment(
        self, deployment_id: str, is_so: Callable[[Json], bool], *, within_s: float = 90.0
    ) -> Json:
        """The deployment once this is so."""

        def look() -> Json | None:
            found = self.get(f"deployments/{deployment_id}")
            return found if is_so(found) else None

        try:
            return wait_until(look, "the deployment is as it should be", within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.get(f'deployments/{deployment_id}')}") from None

    # Ledger

    def entries(self, **query: Any) -> list[Json]:
        """Sequenced entries, decoded, with their `leaf_index`; `type` may be a dotted beginning."""
        return [
            json.loads(base64.b64decode(item["entry"])) | {"leaf_index": item["leaf_index"]}
            for item in self.pages("ledger/entries", **query)
        ]

    def raw_entries(self, *, end: int) -> Iterator[bytes]:
        """The exact bytes of the entries before `end`."""
        for item in self.pages("ledger/entries", end=end):
            yield base64.b64decode(item["entry"])

    def wait_entry(
        self, type_: str, *, subject: str | None = None, within_s: float = PATIENCE_S
    ) -> Json:
        """The newest entry of a type about a subject, once there is one."""
        query = {"type": type_} | ({} if subject is None else {"subject": subject})
        found = wait_until(
            lambda: self.entries(**query), f"a ledger entry {type_}", within_s=within_s
        )
        return found[-1]

    def verifier_keys(self) -> list[VerifierKey]:
        text = self.http.get("/api/v1/ledger/key").raise_for_status().text
        return [parse_verifier_key(line) for line in text.splitlines()]

    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint, its signature verified."""
        note = self.http.get("/api/v1/ledger/checkpoint").raise_for_status().text
        return verify_checkpoint(note, self.verifier_keys())

    def verify_ledger(self) -> Checkpoint:
        """Recompute every leaf hash and the root that the newest checkpoint signs."""
        checkpoint = self.checkpoint()
        tree = Frontier()
        for index, item in enumerate(self.pages("ledger/entries", end=checkpoint.size)):
            assert item["leaf_index"] == index, f"entry {index} is missing"
            leaf = leaf_hash(base64.b64decode(item["entry"]))
            assert leaf.hex() == item["leaf_hash"], f"entry {index} is not what was hashed"
            tree.append(leaf)
        assert tree.size == checkpoint.size
        assert tree.root == checkpoint.root
        return checkpoint

    def _json(self, answer: httpx.Response) -> Json:
        assert answer.is_success, f"{answer.request.method} {answer.url}: {answer.text}"
        body: Json = answer.json() if answer.content else {}
        return body
