"""Who does the work: this process, a few on this machine, or Ray's on many. The tasks and their outcome are the same.

An engine takes a function and tasks, keeps a bounded number of them on their way, and yields what comes back, as it comes.
What a task leaves on disk is written atomically, so a task that is begun twice does no harm.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, Literal, TypeVar

from foretell.base.errors import CapacityError, SettingError

T = TypeVar("T")
R = TypeVar("R")
Kind = Literal["local", "ray"]
WORKER_BYTES = 500 * 2**20  # what a worker needs: libraries, language model, a chunk with its documents and signatures
WAITING = 2  # tasks a worker: one that it does and one that lies ready


def workers_that_fit(wanted: int, memory_bytes: int) -> int:
    """At most `wanted` workers, at least one, as many as the memory allows."""
    return max(1, min(wanted, memory_bytes // WORKER_BYTES - 1))


def run_tasks(
    function: Callable[[T], R], tasks: Iterable[T], workers: int, kind: Kind = "local", address: str | None = None
) -> Iterator[R]:
    """Do all tasks; one alone is done here, without a process for it. Raises CapacityError when a worker is killed."""
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    if kind == "local" and (workers == 1 or len(first) < 2):
        yield from map(function, chain(first, remaining))
    elif kind == "local":
        yield from _local(function, chain(first, remaining), workers)
    else:
        yield from _ray(function, chain(first, remaining), workers, address)


def _local(function: Callable[[T], R], tasks: Iterator[T], workers: int) -> Iterator[R]:
    """Processes that begin clean: a fork would inherit the threads of the parent's libraries half-way through something."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        running = {pool.submit(function, task) for task in islice(tasks, WAITING * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            running |= {pool.submit(function, task) for task in islice(tasks, len(done))}
    except BrokenProcessPool as error:
        what = "a worker process was killed from outside, most likely because memory ran out"
        cure = "give the same command with fewer --workers; what is done is kept"
        raise CapacityError(what, where=f"{workers} workers", cure=cure) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new worker: Ctrl-C is the parent's to hear, the parent's death is the worker's, and each worker is one thread."""

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["RAYON_NUM_THREADS"] = "1"


def _ray(function: Callable[[T], R], tasks: Iterator[T], workers: int, address: str | None) -> Iterator[R]:
    """Ray's tasks: those of a worker that dies go to another one. Without an address no cluster is joined, even if there is one."""
    try:
        import ray
    except ImportError as error:
        raise SettingError("--engine ray needs Ray", where="--engine", cure='pip install "foretell[ray]"') from error
    local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        remote: Any = ray.remote(max_retries=5)(function)
        running = [remote.remote(task) for task in islice(tasks, WAITING * workers)]
        while running:
            done, running = ray.wait(running, num_returns=1)
            yield from ray.get(done)
            running += [remote.remote(task) for task in islice(tasks, len(done))]
    finally:
        ray.shutdown()
