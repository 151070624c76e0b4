import _thread
import signal
import threading
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def set_at_stop_signals(event: threading.Event) -> list[Any]:
    """Return the handlers before."""

    def set_event(*_: object) -> None:
        # A handler interrupts the main thread, which may hold the event's lock while it waits.
        _thread.start_new_thread(event.set, ())

    return [signal.signal(number, set_event) for number in STOP_SIGNALS]
