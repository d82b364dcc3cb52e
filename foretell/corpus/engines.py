"""Who does the work: this process, a few on this machine, or Ray's on many. The tasks and their outcome are the same.

An engine takes a function and tasks, keeps a bounded number of them on their way, and yields what comes back, as it comes.
What a task leaves on disk is written atomically, so a task that is begun twice does no harm.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from foretell.base.errors import CapacityError, ForetellError, SettingError, first_line

T = TypeVar("T")
R = TypeVar("R")
Kind = Literal["local", "ray"]
WORKER_BYTES = 500 * 2**20  # what a worker needs: libraries, language model, a chunk with its documents and signatures
WAITING = 2  # tasks a worker: one that it does and one that lies ready
RETRIES = 5  # of a task whose Ray worker died
STORE_BYTES = 2**27  # a worker's share of the memory in which Ray hands tasks over
ANSWER_SECONDS = 10  # until a Ray cluster takes the call; Ray itself would go on calling for a quarter of an hour
PACKAGE = str(Path(__file__).parents[1])


def workers_that_fit(wanted: int, memory_bytes: int) -> int:
    """At most `wanted` workers, at least one, as many as the memory allows."""
    return max(1, min(wanted, memory_bytes // WORKER_BYTES - 1))


def run_tasks(
    function: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
    kind: Kind = "local",
    address: str | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Iterator[R]:
    """Do all tasks; one alone is done here, without a process for it. tell: hears what takes long before it begins.

    What goes wrong in a worker is raised here as the ForetellError that it is, or one that says what it was.
    Raises CapacityError (a worker was killed), SettingError (no workers could be started).
    """
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    if len(first) < 2 or (kind == "local" and workers == 1):
        yield from map(function, chain(first, remaining))
    elif kind == "local":
        yield from _local(function, chain(first, remaining), workers)
    else:
        yield from _ray(function, chain(first, remaining), workers, address, tell)


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker, as plain values: many exceptions, ours among them, do not survive the way between processes."""

    kind: type[ForetellError]
    what: str
    where: str
    cure: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "_Failure":
        told = "".join(traceback.format_exception(error))
        if isinstance(error, ForetellError):
            return cls(type(error), error.what, error.where, error.cure, told)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        if isinstance(error, MemoryError):
            return cls(CapacityError, "a worker's memory is used up", where, "give the same command with fewer --workers", told)
        return cls(ForetellError, first_line(error), where, "run the same command with --debug, and report what it prints", told)


def _attempt(function: Callable[[T], R], task: T) -> R | _Failure:
    try:
        return function(task)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what panics in Rust is no Exception
        return _Failure.of(error)


def _result(outcome: R | _Failure) -> R:
    if isinstance(outcome, _Failure):
        raise outcome.kind(outcome.what, where=outcome.where, cure=outcome.cure) from RuntimeError(f"\n{outcome.traceback}")
    return outcome


def _local(function: Callable[[T], R], tasks: Iterator[T], workers: int) -> Iterator[R]:
    """Processes that begin clean: a fork would inherit the threads of the parent's libraries half-way through something."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(theirs,))
    try:
        running = {_submitted(pool, function, task) for task in islice(tasks, WAITING * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield _result(future.result())
            running |= {_submitted(pool, function, task) for task in islice(tasks, len(done))}
        pool.shutdown()
    except BrokenProcessPool as error:
        if not ours.poll():
            raise _never_begun() from error
        what = "a worker process was killed from outside, most likely because memory ran out"
        cure = "give the same command with fewer --workers; what is done is kept"
        raise CapacityError(what, where=f"{workers} workers", cure=cure) from error
    finally:
        ours.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, function: Callable[[T], R], task: T) -> "Future[R | _Failure]":
    """Hand a task over. Ctrl-C waits meanwhile, and a process that begins here never hears it: it is the parent's to hear."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_attempt, function, task)
    except BrokenProcessPool:
        raise
    except RuntimeError:  # multiprocessing's, when a worker begins by running the script that started it
        raise _never_begun() from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(theirs: Connection) -> None:
    """In a new worker: say that it begins, live as long as the other end of the pipe is open, and be one thread."""

    def follow() -> None:
        theirs.poll(None)  # nothing is ever sent: it returns when the parent has closed its end, or is dead
        os._exit(1)

    try:
        theirs.send_bytes(b"begun")
    except OSError:
        os._exit(1)
    threading.Thread(target=follow, daemon=True).start()
    os.environ["RAYON_NUM_THREADS"] = "1"


def _never_begun() -> SettingError:
    main = getattr(sys.modules["__main__"], "__file__", "this program")
    cure = 'in a script, put what it does under `if __name__ == "__main__":`; or do without them: one worker'
    return SettingError("the worker processes ended before they began", where=str(main), cure=cure)


def _ray(
    function: Callable[[T], R], tasks: Iterator[T], workers: int, address: str | None, tell: Callable[[str], object]
) -> Iterator[R]:
    """Tasks of Ray, which gives those of a worker that dies to another one.

    Not Ray Data: a dataset begins from items that are all there, while these are planned as they are needed, megabytes each.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 40 seconds each, of which Ray would spend twenty
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise SettingError("--engine ray needs Ray", where="--engine", cure='pip install "foretell[ray]"') from error
    tell(f"joining the Ray cluster at {address}" if address else f"starting Ray with {workers} workers: 10 to 60 seconds")
    with _cluster(ray, workers, address):
        remote: Any = ray.remote(max_retries=RETRIES)(_there)
        here = str(Path.cwd())
        running = [remote.remote(here, function, task) for task in islice(tasks, WAITING * workers)]
        try:
            while running:
                done, running = ray.wait(running, num_returns=1)
                yield from map(_result, ray.get(done))
                running += [remote.remote(here, function, task) for task in islice(tasks, len(done))]
        except RayTaskError as error:  # what the function raises is among its outcomes: the worker could not even begin
            cure = "install the same Python, Ray and foretell on every machine of the cluster"
            raise SettingError(
                f"Ray's workers cannot do this: {first_line(error.cause)}", where="--engine ray", cure=cure
            ) from error
        except RayError as error:
            cure = "give the same command with fewer --workers; what is done is kept"
            raise CapacityError(f"Ray has lost its workers: {first_line(error)}", where="--engine ray", cure=cure) from error


def _there(folder: str, function: Callable[[T], R], task: T) -> R | _Failure:
    """In a worker of Ray: relative paths mean what they mean where the command was given."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    try:
        os.chdir(folder)
    except OSError as error:
        cure = "give all machines of the cluster the same shared disk, and start in a folder on it"
        return _Failure.of(SettingError(f"a worker of Ray does not see this folder: {error.strerror}", where=folder, cure=cure))
    return _attempt(function, task)


@contextmanager
def _cluster(ray: Any, workers: int, address: str | None) -> Iterator[None]:
    """Ray on this machine alone, whatever RAY_ADDRESS says, or the cluster at an address. Raises SettingError."""
    alone = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE_BYTES * workers}
    options: dict[str, Any] = {} if address else alone
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _require_answer(address)
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:
            cure = "see that Ray and Python have the cluster's versions" if address else "try again, or leave --engine ray out"
            what = f"Ray cannot be {'joined' if address else 'started'}: {first_line(error)}"
            raise SettingError(what, where=address or "--engine ray", cure=cure) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts an exit of its own there
        with redirect_stdout(sys.stderr):  # Ray prints there that a worker died, among the results
            yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # others (`auto`, no port) Ray itself refuses at once
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            cure = "give HOST:PORT of the head node, as `ray status` on it shows; --engine ray alone works on this machine"
            raise SettingError(f"no Ray cluster answers ({error})", where=address, cure=cure) from error
