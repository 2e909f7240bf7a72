"""A service that does nothing but what every service owes its parent; run as a program.

Arguments: a name, then any of `deaf` (does not end when asked), `mute` (is never ready),
`broken` (ends at once), `prints` (an entry, as a sink of the kind `stdout` does).
"""

import asyncio
import json
import os
import sys

from tensorguard.cli.lifeline import install, notify_ready

ENTRY = '{"time":1,"message":"entry","zoned":"é","metadata":{"version":"1.8.0"}}'


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


async def serve(name: str, *habits: str) -> None:
    if "broken" in habits:
        print("stub cannot go on")
        sys.exit(3)
    stop = asyncio.Event()
    install(stop, hard_exit_after_s=1.0)
    settings = {key: value for key, value in os.environ.items() if key.startswith("TG_")}
    tell("stub_started", name=name, pid=os.getpid(), settings=settings)
    if "prints" in habits:
        print(ENTRY, flush=True)
        print("a word of the log", file=sys.stderr, flush=True)
    if "mute" not in habits:
        notify_ready()
    await stop.wait()
    tell("stub_asked_to_stop", name=name)
    if "deaf" in habits:
        await asyncio.Event().wait()
    tell("stub_stopped", name=name)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
