"""What a service that `tensorguard up` runs owes its parent: say when it is ready, end when told.

A service started by hand has no parent pipe and no ready pipe; everything here still works.
"""

import asyncio
import os
import signal
import threading

PARENT_PIPE = "TG_PARENT_PIPE"
"""Environment: a descriptor that reads end of file when the parent process has ended."""
READY_PIPE = "TG_READY_FD"
"""Environment: a descriptor that takes the one line `ready`."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def install(stop: asyncio.Event, *, hard_exit_after_s: float = 30.0) -> None:
    """Set `stop` at SIGTERM, SIGINT or the parent's end, and exit hard when that takes too long.

    Call once, from the event loop of the main thread. A second signal exits at once with 130.
    """
    loop = asyncio.get_running_loop()

    def ask(signal_number: int | None) -> None:
        if signal_number is not None and stop.is_set():
            os._exit(130)
        _exit_later(hard_exit_after_s)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask, number)
    if (descriptor := _take(PARENT_PIPE)) is not None:

        def watch() -> None:
            while os.read(descriptor, 512):
                continue
            _exit_later(hard_exit_after_s)  # from here: the loop may be stuck
            if not loop.is_closed():
                loop.call_soon_threadsafe(ask, None)

        threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_parent(*, hard_exit_after_s: float = 30.0) -> None:
    """Send this process SIGTERM when its parent has ended: for programs that handle that already.

    Without a parent pipe it does nothing.
    """
    if (descriptor := _take(PARENT_PIPE)) is None:
        return

    def watch() -> None:
        while os.read(descriptor, 512):
            continue
        _exit_later(hard_exit_after_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def notify_ready() -> None:
    """Tell the parent that this service serves now; the first call counts."""
    if (descriptor := _take(READY_PIPE)) is not None:
        with os.fdopen(descriptor, "w") as pipe:
            pipe.write("ready\n")


def _take(name: str) -> int | None:
    """Read a descriptor's number once: no process that this one starts is to use it."""
    number = os.environ.pop(name, None)
    if number is None:
        return None
    os.set_inheritable(int(number), False)
    return int(number)


def _exit_later(delay_s: float) -> None:
    timer = threading.Timer(delay_s, os._exit, (1,))
    timer.daemon = True  # an orderly end that comes first is not held up
    timer.start()
