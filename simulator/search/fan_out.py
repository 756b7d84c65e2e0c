"""Do the same work for many items on threads, and stop all of it when one fails or the user asks to stop."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from simulator.engine.interrupt import obey

Item = TypeVar("Item")
Done = TypeVar("Done")


def run_all(
    work: Callable[[Item], Done],
    items: Sequence[Item],
    *,
    threads: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Done]:
    """Return ``work`` of each item, in order, from ``threads`` threads (all cores by default).

    ``on_done`` is called with (finished, total), the first time with nothing finished. Where one item raises, or the
    main thread is interrupted, work that waits is dropped and simulations under way end at their next slice.
    """
    stop = Event()
    done: list[Done] = []
    if on_done is not None:
        on_done(0, len(items))
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers, initializer=obey, initargs=(stop,)) as pool:
        try:
            for result in pool.map(work, items):
                done.append(result)
                if on_done is not None:
                    on_done(len(done), len(items))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done
