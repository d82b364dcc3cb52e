"""Saving while training goes on: the step waits while tensors are copied; files, digests and the rename follow in a thread."""

from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from foretell.base.files import SEAL, atomic_path, seal, translated_write_errors
from foretell.base.records import dump, read_json
from foretell.compute.distributed import PeerLost, Ranks, peers
from foretell.interop.configs import to_hugging_face
from foretell.interop.foreign import Foreign
from foretell.interop.huggingface import write_foreign
from foretell.interop.tensors import SAFETENSORS
from foretell.planning.hardware import free_bytes
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.checkpoint import SHARDS, Snapshot, checkpoint_path, prune, snapshot, write_checkpoint, write_rest
from foretell.training.parameters import FlatParameters
from foretell.training.state import TrainState

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor  # a second to import, and only needed where a model is spread

WRITING_SECONDS = 3600.0  # a slow disk is no lost rank


class Saver:
    """Called with a state, on every rank, it saves a checkpoint. One is written at a time: the next save waits for the last.

    The first rank writes; all do, each its part, where the model is spread over them. What goes wrong in the background is raised
    by the next save, by `wait`, or at the end of the `with` block, which waits too. background: false writes at once, and so does
    a machine without memory for a copy.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, environment: dict[str, Any], keep: int, background: bool) -> None:
        self._folder, self._tokenizer, self._environment, self._keep = folder, tokenizer, environment, keep
        self._staging, self._writing = Staging() if background else None, Future[None]()
        self._writing.set_result(None)
        self._group: ProcessGroup | None = None
        self._calls = 0  # so that ranks speak of the same one

    def __call__(self, state: TrainState, due: bool = True) -> None:
        """Save what the state is now, unless it lies there already.

        due: it is saved at this step whatever happens, not because the run was interrupted.
        """
        progress, ranks = state.progress, state.ranks
        self.settle(ranks)
        if due and not progress.strikes:
            progress.good_step = progress.step
        path = checkpoint_path(self._folder, progress.step)
        if ranks.from_first(f"there/{self._calls}", lambda: str(path.exists())) == "True":
            if ranks.is_first:
                prune(self._folder, self._keep, progress)
            return
        taken, spread = snapshot(state), not isinstance(state.parameters, FlatParameters)
        if spread and self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WRITING_SECONDS))
        if self._staging is not None and (spread or ranks.is_first):
            crowded = not self._staging.fits(taken, ranks.local_size)
            if ranks.sums([crowded])[0] if spread else crowded:
                self._staging = None  # too little memory, on all ranks or none: the step waits instead
        if spread or ranks.is_first:
            self._begin(path, taken, ranks.is_first)
        ranks.from_first(f"begun/{self._calls}", str)  # the others wait as long as it takes, and no collective gives up

    def _begin(self, path: Path, taken: Snapshot, first: bool) -> None:
        taken = self._staging.copied(taken) if self._staging is not None else taken
        writing = self._writing = Future[None]()

        def write() -> None:
            try:
                if self._group is not None:
                    write_spread(path, taken, self._tokenizer, self._environment, self._group)
                else:
                    write_checkpoint(path, taken, self._tokenizer, self._environment)
                if first:
                    prune(self._folder, self._keep, taken.progress)
                writing.set_result(None)
            except BaseException as error:
                writing.set_exception(error)

        if self._staging is None:
            write()
            self.wait()
        else:
            Thread(target=write, name="checkpoint", daemon=True).start()  # a daemon: what hangs there must not keep the process

    def settle(self, ranks: Ranks) -> None:
        """Wait, on all ranks, until the last checkpoint lies on the disk."""
        self._calls += 1
        self.wait()
        ranks.from_first(f"settled/{self._calls}", str)

    def wait(self) -> None:
        """Until the last checkpoint lies on the disk."""
        self._writing.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
        elif self._group is None or not isinstance(error, PeerLost):  # without a peer its part would never come
            self._writing.exception()  # a checkpoint that is under way is finished; what ended the run is what is told


class Staging:
    """Copies of a snapshot's tensors in memory that is used again each time; page-locked where they come from a GPU."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._mesh: DeviceMesh | None = None

    def fits(self, taken: Snapshot, local_size: int) -> bool:
        """Whether there is memory for the copies, on this rank, one of local_size on its machine."""
        tensors: list[Any] = [*taken.weights.values(), *taken.moments.values()]
        needed = sum((tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes for tensor in tensors)
        return bool(self._copies) or 1.1 * needed < free_bytes() // local_size

    @torch.no_grad()
    def copied(self, taken: Snapshot) -> Snapshot:
        """The same on the CPU, in memory of its own until the next call."""
        weights, moments = self._copies_of(taken.weights, "weights"), self._copies_of(taken.moments, "moments")
        copied = replace(taken, weights=weights, moments=moments, small=self._copies_of(taken.small, "small"))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copies_of(self, tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
        return {name: self._copy(f"{kind}/{name}", tensor) for name, tensor in tensors.items()}

    def _copy(self, key: str, tensor: Any) -> Tensor:
        if hasattr(tensor, "to_local"):
            return self._spread(self._copy(key, tensor.to_local()), tensor)
        if key not in self._copies or self._copies[key].shape != tensor.shape:
            self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        copy = self._copies[key]
        if tensor.is_cuda or tensor.dtype == torch.bfloat16:  # which numpy does not know
            copy.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        else:
            np.copyto(copy.numpy(), tensor.detach().numpy())  # torch's copy is 5 times slower when its threads wait for busy cores
        return copy

    def _spread(self, rows: Tensor, of: "DTensor") -> "DTensor":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor

        self._mesh = self._mesh or init_device_mesh("cpu", (of.device_mesh.size(),))
        return DTensor.from_local(rows, self._mesh, of.placements, run_check=False, shape=of.shape, stride=of.stride())


def write_spread(path: Path, taken: Snapshot, tokenizer: Tokenizer, environment: dict[str, Any], group: ProcessGroup) -> None:
    """Write a checkpoint of which each rank holds a part, atomically: the first rank seals and renames what all have written."""
    from foretell.training.sharded import write_shards

    first = dist.get_rank(group) == 0
    with atomic_path(path) if first else translated_write_errors(path) as partial:
        if partial is not None:
            partial.mkdir()
            write_foreign(partial, Foreign(to_hugging_face(taken.model.config, None), {}, tokenizer, str(path)))
            (partial / SAFETENSORS).unlink()  # of no tensors
            write_rest(partial, replace(taken, moments={}), environment)
            seal(partial)
        place = [str(partial)]
        with peers():
            dist.broadcast_object_list(place, src=0, group=group)
        digests = write_shards(Path(place[0]) / SHARDS, taken.weights | taken.moments, group)
        if partial is not None:
            (partial / SEAL).write_text(dump(read_json(partial / SEAL) | digests, indent=1))
    with peers():
        dist.barrier(group)
