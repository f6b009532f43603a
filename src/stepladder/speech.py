"""Speech: long work of unknown length says that it goes on; what counts its steps has `progress`."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_S = 20


@contextmanager
def during(what: str) -> Iterator[None]:
    """Print `what` at once and again every EVERY_S seconds until the work inside is done."""
    done, started = threading.Event(), time.monotonic()

    def speak() -> None:
        while not done.wait(EVERY_S):
            print(f"{what}: {time.monotonic() - started:.0f} s so far", flush=True)

    print(what, flush=True)
    voice = threading.Thread(target=speak, daemon=True)
    voice.start()
    try:
        yield
    finally:
        done.set()
        voice.join()
