"""Several processes that train one model, as torchrun starts them; alone, everything here does nothing.

Control messages (weights of a batch, losses, whether to stop) are sums over gloo on the CPU, which gives up after a timeout on
whatever device the model is; gradients travel over NCCL between GPUs, gloo between CPUs. Each rank notes in the store which step
it is in and, when it fails, why: so that whoever is left can name the one that is missing, and one error is told once.
"""

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from foretell.base.errors import ForetellError, Interrupted, SettingError, first_line
from foretell.base.machine import usable_processors

PATIENCE_SECONDS = 1.0  # for the other ranks' last words
STARTING_SECONDS = 3600.0  # rank 0 verifies a whole checkpoint, or writes one to a slow disk, before the others go on
POLL_SECONDS = 0.02
_ending = threading.Event()


class PeerLost(ForetellError):
    """Another rank failed, or does not answer. What happened is told by `ranks`, once."""


@dataclass(frozen=True)
class Ranks:
    """This process among its equals. size: how many there are; local_size: on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None

    @property
    def is_first(self) -> bool:
        """Speaks to the terminal and writes the run's files."""
        return self.rank == 0

    @property
    def threads(self) -> int | None:
        """Of several processes on a machine each takes its share, or OMP_NUM_THREADS (1 is torchrun's, no wish); None: alone."""
        if self.size > 1 and (wished := os.environ.get("OMP_NUM_THREADS", "1")) not in ("", "1"):
            return int(wished)
        return max(1, usable_processors() // self.local_size) if self.size > 1 else None

    def share(self, windows: int) -> range:
        """The windows of a batch that this rank learns from: neighbours, as many as the others have or one more.

        The batch is the same at any number of ranks. Raises SettingError when there are more ranks than windows.
        """
        if windows < self.size:
            what = f"{self.size} processes cannot share a batch of {windows} windows"
            cure = f"set training.batch_tokens to {self.size} · context_length or more, or start {windows} processes"
            raise SettingError(what, where="training.batch_tokens", cure=cure)
        return range(self.rank * windows // self.size, (self.rank + 1) * windows // self.size)

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, the same bits on each. Raises PeerLost."""
        if self.size > 1:
            with peers():
                dist.all_reduce(tensor)

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum of each number over all ranks, in fp64. Raises PeerLost."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device="cpu")
        self.all_reduce(sums)
        return [float(value) for value in sums]

    def first(self, values: Sequence[float]) -> list[float]:
        """The first rank's numbers, on every rank."""
        return self.sums([value if self.is_first else 0.0 for value in values])

    def barrier(self) -> None:
        """Wait for all."""
        self.sums([0.0])

    def agree(self, stop: bool) -> bool:
        """Whether any rank is to stop: then all do, after the same step."""
        if agreed := self.sums([stop])[0] > 0:
            _ending.set()
        return agreed

    def at(self, step: int) -> None:
        """Note which step this rank is in."""
        if self.store is not None:
            with peers():
                self.store.set(f"step/{self.rank}", str(step))

    def from_first(self, key: str, make: Callable[[], str]) -> str:
        """What the first rank makes of something that only one may do or measure; the others wait, until it has failed at most."""
        if self.store is None:
            return make()
        text = make() if self.is_first else ""
        with peers():
            if self.is_first:
                self.store.set(f"first/{key}", text)
                return text
            deadline = time.monotonic() + STARTING_SECONDS
            while not self.store.check([f"first/{key}"]):
                ended = self.store.check(["end/0"]) and not self.store.check([f"first/{key}"])  # it may have failed just behind it
                if ended or time.monotonic() > deadline:
                    raise PeerLost("the first rank has failed", where=key, cure="see its error")
                time.sleep(POLL_SECONDS)
            return self.store.get(f"first/{key}").decode()


@contextlib.contextmanager
def ranks(device: str, timeout_seconds: float) -> Iterator[Ranks]:
    """This process among those that torchrun started; without torchrun, alone and without a process group.

    device: auto, cpu or cuda; each process of a machine takes a GPU of its own. Whatever ends one rank ends all of them: at once
    where it could say so, within timeout_seconds where it hangs. The error names the rank, and one process raises it; the others
    leave in silence (SystemExit with the same code).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if size == 1:
        yield Ranks(device=torch.device("cuda" if cuda else "cpu"))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        what = f"process {local + 1} of this machine finds no GPU of its own: there are {torch.cuda.device_count()}"
        raise SettingError(what, where="training.device", cure="torchrun --nproc-per-node with as many as there are GPUs")
    place = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    _ending.clear()
    store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=STARTING_SECONDS)))
    old, store = signal.signal(signal.SIGTERM, _leave), PrefixStore(f"foretell/{_meeting(store, rank, size)}", store)
    backend, patience = "cpu:gloo,cuda:nccl" if cuda else "gloo", timedelta(seconds=timeout_seconds)
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=patience)
    here = Ranks(rank, size, local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), place, store)
    try:
        yield here
    except Exception as error:
        _ending.set()
        explained = _explained(here, error)
        if explained is None:
            raise SystemExit(getattr(error, "exit_code", 1)) from error
        if explained is error:
            raise
        raise explained from error
    finally:
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, old)


def _leave(number: int, _: FrameType | None) -> None:
    """torchrun ends the others when one has failed, and hands on one signal twice: who is ending already may say why."""
    if not _ending.is_set():
        raise SystemExit(128 + number)


def _meeting(store: Store, rank: int, size: int) -> str:
    """A name for those who are here now: torchrun's store still holds the words of those who were here before a restart."""
    own, welcomed, deadline = uuid.uuid4().hex, set[bytes](), time.monotonic() + STARTING_SECONDS
    if rank > 0:
        store.set(f"hello/{rank}", own)
    while time.monotonic() < deadline:
        if rank > 0 and store.check([f"welcome/{own}"]):
            name = store.get(f"welcome/{own}").decode()
            store.add(f"met/{name}", 1)
            return name
        if rank == 0:
            for hello in [f"hello/{other}" for other in range(1, size)]:
                if store.check([hello]) and (guest := store.get(hello)) not in welcomed:
                    welcomed.add(guest)
                    store.set(f"welcome/{guest.decode()}", own)
            if store.add(f"met/{own}", 0) == size - 1:
                return own
        time.sleep(POLL_SECONDS)
    raise PeerLost("not all processes have come together", where=f"rank {rank} of {size}", cure="see what keeps the others")


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Turn what a collective raises when the other side is gone or silent into PeerLost."""
    try:
        yield
    except RuntimeError as error:  # gloo's and the store's errors have no type of their own
        _ending.set()
        raise PeerLost(first_line(error), where="a sum over all ranks", cure="see the error of the other rank") from error


def _explained(here: Ranks, error: Exception) -> Exception | None:
    """What this rank tells after a failure; None: another one tells it. All that still live leave their last words first."""
    assert here.store is not None  # noqa: S101
    if isinstance(error, Interrupted):  # which all have agreed upon
        return error if here.is_first else None
    try:
        here.store.set(f"end/{here.rank}", json.dumps(None if isinstance(error, PeerLost) else str(error)))
    except RuntimeError:  # the store is gone, and with it whoever kept it
        return _lost(here, {0: "whose machine keeps the list of all"}, "in the run") if isinstance(error, PeerLost) else error
    try:
        steps = {rank: _step(here.store, rank) for rank in range(here.size)}
        ends = _last_words(here, here.store, PATIENCE_SECONDS if isinstance(error, PeerLost) else 3 * PATIENCE_SECONDS)
    except RuntimeError:  # the store is gone: better told twice than never
        return None if isinstance(error, PeerLost) else error
    own = {rank: what for rank, what in ends.items() if what is not None}
    if here.rank != min(own or ends):
        return None
    if not own:
        missing = [rank for rank in range(here.size) if rank not in ends] or [rank for rank in ends if rank != here.rank]
        return _lost(here, {rank: f"last seen {steps[rank]}" for rank in missing}, steps[here.rank])
    if isinstance(error, ForetellError) and not (len(own) == here.size and len(set(own.values())) == 1):
        error.where = f"rank {here.rank} of {here.size}, {error.where}"  # not all have come to the same end
    return error


def _lost(here: Ranks, missing: dict[int, str], where: str) -> PeerLost:
    names = ", ".join(f"rank {rank} ({seen})" for rank, seen in missing.items())
    what = f"{'one process does' if len(missing) == 1 else f'{len(missing)} processes do'} not answer any more: {names}"
    cure = "look for what ended it in its log (memory, a signal, its machine or network), and go on with --resume"
    return PeerLost(what, where=f"rank {here.rank} of {here.size}, {where}", cure=cure)


def _last_words(here: Ranks, store: Store, patience_seconds: float) -> dict[int, str | None]:
    """By rank, for those that have said so in time: why it ends, None where only because another one does."""

    def said(what: str, wanted: Iterable[int], patience_seconds: float) -> list[int]:
        wanted, deadline = list(wanted), time.monotonic() + patience_seconds
        while len(there := [rank for rank in wanted if store.check([f"{what}/{rank}"])]) < len(wanted):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return there

    ended = said("end", range(here.size), patience_seconds)
    words = {rank: json.loads(store.get(f"end/{rank}")) for rank in ended}
    store.set(f"read/{here.rank}", "")
    if here.is_first:  # without torchrun the store is this process: it leaves last
        said("read", ended, PATIENCE_SECONDS)
    return words


def _step(store: Store, rank: int) -> str:
    key = f"step/{rank}"
    return f"at step {store.get(key).decode()}" if store.check([key]) else "before its first step"
