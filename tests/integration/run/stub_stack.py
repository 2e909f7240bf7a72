"""The real supervisor and the real PostgreSQL over stub services; run as a program.

Arguments: the data directory, then `name` or `name:habit` for every service.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tensorguard.cli.supervisor.addresses import Wishes
from tensorguard.cli.supervisor.child import ChildSpec
from tensorguard.cli.supervisor.errors import UpError
from tensorguard.cli.supervisor.output import Output
from tensorguard.cli.supervisor.platform import Ready, UpRequest, run_platform

STUB = Path(__file__).with_name("stub_service.py")


def announce(ready: Ready) -> None:
    facts = {"http": ready.addresses.http, "password": ready.admin_password}
    print(json.dumps({"ready": True, **facts}), flush=True)


def main(directory: str, *stubs: str) -> None:
    def services(environment: Mapping[str, str]) -> list[ChildSpec]:
        return [
            ChildSpec(
                name=stub.partition(":")[0],
                command=(sys.executable, str(STUB), *stub.split(":")),
                environment=environment,
                ready_within_s=3.0,
                stop_within_s=120.0,
                prints="prints" in stub.split(":"),
            )
            for stub in stubs
        ]

    any_port = "127.0.0.1:0"
    stored = Path(directory, "addresses.json").exists()
    wishes = Wishes() if stored else Wishes(any_port, any_port, any_port, any_port)
    request = UpRequest(Path(directory), wishes, "tensorguard.test")
    try:
        asyncio.run(
            run_platform(request, output=Output(as_json=True), announce=announce, services=services)
        )
    except UpError as error:
        sys.exit(f"{error.code}: {error.message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
