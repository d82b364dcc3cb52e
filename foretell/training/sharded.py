"""Parameters that are spread over ranks: FSDP2 (Zhao et al. 2023), each layer gathered while it is computed.

Answers to what FlatParameters answers to. The masters are the fp32 rows that this rank owns of each tensor (DTensors, cut along
their first dimension); layers are gathered in the compute dtype, gradients are summed in fp32 on their way back to the owners.
The root gathers embeddings and head in the forward pass and keeps them until the backward pass is over, so that the loss,
which is computed outside of the model, reads a whole head matrix.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from foretell.base.errors import CheckpointError, SettingError
from foretell.base.files import digest
from foretell.compute.distributed import Ranks, peers
from foretell.models.network import Network
from foretell.training.muon import Muon
from foretell.training.parameters import ROLES, Role, part_of, role_of
from foretell.training.updates import Optimizer

Named = dict[str, Tensor]


class ShardedGroup:
    """The parameters of one role. masters: this rank's rows of them, fp32, none that is empty."""

    def __init__(self, role: Role, named: dict[str, DTensor], average: bool) -> None:
        self.role, self.named = role, named
        self.rows = {name: _rows(parameter) for name, parameter in named.items()}
        self.averages = {name: rows.clone() for name, rows in self.rows.items()} if average else {}

    @property
    def masters(self) -> list[Tensor]:
        """What the optimizer updates."""
        return [rows for rows in self.rows.values() if rows.numel()]

    def whole(self, parts: Named) -> Named:
        """Rows of this rank as the tensors that they are parts of."""
        return {name: _part(rows, self.named[name]) for name, rows in parts.items()}


class ShardedMuon(Muon):
    """Muon over rows: each update is gathered, orthogonalised whole on every rank, and cut again."""

    def __init__(
        self,
        group: ShardedGroup,
        parts: Callable[[str, Tensor], list[Tensor]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        """parts: the matrices that a parameter holds, by its name, as views."""
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        Optimizer.__init__(self, [{"params": group.masters, **settings}])
        self._group, self._parts, self._dtype = group, parts, dtype

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients. On all ranks."""
        (group,) = self.param_groups
        for name, parameter in self._group.named.items():
            rows = self._group.rows[name]
            if rows not in self.state:
                self.state[rows] = {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(rows)}
            state = self.state[rows]
            assert rows.grad is not None  # noqa: S101
            state["step"] += 1
            momentum = state["momentum_buffer"].lerp_(rows.grad, 1 - group["momentum"])
            update = _part(rows.grad.lerp(momentum, group["momentum"]), parameter).full_tensor()
            change = torch.zeros_like(update)
            self._subtract(self._parts(name, change), self._parts(name, update), group["lr"])
            rows.mul_(1 - group["lr"] * group["weight_decay"]).add_(_own(change, parameter))


class ShardedParameters:
    """Spreads a model over all ranks and owns its parameters from here on. dtype: what the model computes in.

    average: also keep an exponential moving average. offload: keep weights, gradients and moments in the host's memory.
    Raises SettingError for a network without layers to gather one after the other.
    """

    def __init__(self, model: Network, dtype: torch.dtype, ranks: Ranks, average: bool = False, offload: bool = False) -> None:
        blocks = getattr(model, "blocks", None)
        if not isinstance(blocks, nn.ModuleList):
            what = "a network without layers of one kind cannot be spread over processes"
            raise SettingError(what, where="training.parallel=fsdp", cure="training.parallel=ddp")
        self.mixed, self._ranks = dtype != torch.float32, ranks
        roles = {name: role_of(name, parameter) for name, parameter in model.named_parameters()}
        policy = MixedPrecisionPolicy(param_dtype=dtype if self.mixed else None, reduce_dtype=torch.float32)
        mesh = init_device_mesh(ranks.device.type, (ranks.size,))
        place = CPUOffloadPolicy() if offload and ranks.device.type == "cuda" else OffloadPolicy()
        for module in (*blocks, model):  # the root last: it takes what is left
            self._root = fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=place)
            self._root.set_gradient_divide_factor(1.0)  # the loss is divided by the weight of the whole batch already
            self._root.set_force_sum_reduction_for_comms(True)
        named = {name: _sharded(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
        parts = {role: {name: p for name, p in named.items() if roles[name] == role} for role in ROLES}
        self.groups = [ShardedGroup(role, part, average) for role, part in parts.items() if part]

    @torch.no_grad()
    def reduce(self, ranks: Ranks) -> None:
        """After the last backward pass: lay the gradients, summed over ranks and passes, beside the masters.

        They are summed over the ranks after each pass: to wait for the last would need the whole model's gradient on each rank.
        """
        for group in self.groups:
            for name, parameter in group.named.items():
                rows, gradient = group.rows[name], parameter.grad
                rows.grad = torch.zeros_like(rows) if gradient is None else _rows(gradient)

    def gradient_norm(self) -> float:
        """The norm of the whole gradient."""
        return math.sqrt(self._ranks.sums([sum(square for _, square in self._squares())])[0])

    def gradient_norms(self) -> dict[str, float]:
        """The norm of the gradient of each part of the model: token_embedding, blocks.0, …, head."""
        squares: dict[str, float] = {}
        for name, square in self._squares():
            squares[part_of(name)] = squares.get(part_of(name), 0.0) + square
        return {part: math.sqrt(square) for part, square in zip(squares, self._ranks.sums(list(squares.values())), strict=True)}

    def clip(self, norm: float, limit: float | None) -> None:
        """Scale the gradient down to `limit` where its norm is larger."""
        if limit is not None and norm > limit:
            for group in self.groups:
                for gradient in (rows.grad for rows in group.masters if rows.grad is not None):
                    gradient.mul_(limit / norm)

    def zero(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            for name, parameter in group.named.items():
                parameter.grad = group.rows[name].grad = None

    def publish(self) -> None:
        """The model gathers the masters themselves."""

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the masters: average ← decay · average + (1 − decay) · master."""
        for group in self.groups:
            for name, average in group.averages.items():
                average.lerp_(group.rows[name], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the model computes with the average, where there is one; what the root holds (the head) is whole."""
        self._exchange()
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()
            self._exchange()

    def whole(self, tensors: Named) -> Named:
        """Named DTensors gathered, in the host's memory. On all ranks."""
        return {name: _sharded(tensor).full_tensor().cpu() for name, tensor in tensors.items()}

    def named_masters(self) -> Named:
        """The fp32 weights under the model's own names, DTensors."""
        return {name: tensor for group in self.groups for name, tensor in group.whole(group.rows).items()}

    def named_averages(self) -> Named:
        """The averaged fp32 weights likewise; empty where none are kept."""
        return {name: tensor for group in self.groups for name, tensor in group.whole(group.averages).items()}

    def named_moments(self, optimizers: list[Optimizer]) -> Named:
        """What the optimizers remember, as `exp_avg.NAME` and the like, DTensors; empty before the first update."""
        found: Named = {}
        for group in self.groups:
            states = [optimizer.state[rows] for rows in group.masters for optimizer in optimizers if rows in optimizer.state]
            kinds = [kind for kind, value in states[0].items() if value.ndim] if states else []
            for kind in kinds:
                for name, rows in group.rows.items():
                    state: Named = next((optimizer.state[rows] for optimizer in optimizers if rows in optimizer.state), {})
                    found[f"{kind}.{name}"] = _part(state.get(kind, torch.zeros_like(rows)), group.named[name])
        return found

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> None:
        """Fill masters and averages from named fp32 tensors, whole ones or DTensors; averages begin at the weights without."""
        self._root.reshard()  # what a forward pass has gathered is not of these weights
        for group in self.groups:
            for name, rows in group.rows.items():
                rows.copy_(_own(weights[name], group.named[name]))
            for name, rows in group.averages.items():
                rows.copy_(_own(averages.get(name, weights[name]), group.named[name]))

    @torch.no_grad()
    def load_moments(self, moments: Mapping[str, Tensor], step: Tensor, optimizers: list[Optimizer]) -> None:
        """Give the optimizers back what `named_moments` said."""
        kinds = sorted({name.split(".", 1)[0] for name in moments})
        for optimizer in optimizers:
            mine = {id(parameter) for settings in optimizer.param_groups for parameter in settings["params"]}
            for group in self.groups:
                for name, rows in group.rows.items():
                    if id(rows) in mine:
                        state = {kind: moments[f"{kind}.{name}"] for kind in kinds if f"{kind}.{name}" in moments}
                        own = {kind: _own(tensor, group.named[name]).to(rows.device).clone() for kind, tensor in state.items()}
                        optimizer.state[rows] = {"step": step.to(rows.device, copy=True), **own}

    def _squares(self) -> list[tuple[str, float]]:
        """Of this rank's rows of each gradient: the sum of squares, in the same order on every rank."""
        parts = [(name, rows.grad) for group in self.groups for name, rows in group.rows.items()]
        return [(name, float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2) for name, part in parts if part is not None]

    @torch.no_grad()
    def _exchange(self) -> None:
        for group in self.groups:
            for name, average in group.averages.items():
                kept = group.rows[name].clone()
                group.rows[name].copy_(average)
                average.copy_(kept)


def _sharded(tensor: Tensor) -> DTensor:
    assert isinstance(tensor, DTensor)  # noqa: S101 — FSDP has just made it one
    return tensor


@torch.no_grad()
def _rows(tensor: Tensor) -> Tensor:
    """This rank's rows of a DTensor, the very memory."""
    rows: Tensor = _sharded(tensor).to_local()
    return rows


def _part(rows: Tensor, of: DTensor) -> DTensor:
    """This rank's rows as a part of a tensor like another."""
    return DTensor.from_local(rows, of.device_mesh, of.placements, run_check=False, shape=of.shape, stride=of.stride())


def _own(tensor: Tensor, like: DTensor) -> Tensor:
    """This rank's rows of a tensor, whole or DTensor."""
    if isinstance(tensor, DTensor):
        return _rows(tensor)
    pieces, rank = tensor.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    return pieces[rank] if rank < len(pieces) else tensor[:0]


def write_shards(folder: Path, tensors: Named, group: ProcessGroup) -> dict[str, str]:
    """On all ranks: each writes its rows of the tensors, in DCP's safetensors files. Returns the SHA-256 of all files, by path.

    Raises on every rank what one of them has met.
    """
    try:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(tensors, storage_writer=writer, process_group=group)
    except CheckpointException as error:  # a BaseException
        cause, _ = next(iter(error.failures.values()))
        raise cause from None
    mine = {f"{folder.name}/{file.name}": digest(file) for file in folder.glob(f"shard-{dist.get_rank(group) + 1:05d}-*")}
    digests: list[dict[str, str]] = [{}] * dist.get_world_size(group)
    with peers():
        dist.all_gather_object(digests, mine, group=group)
    return {name: value for part in digests for name, value in part.items()}


def read_shards(folder: Path, like: Mapping[str, Tensor]) -> Named:
    """What `write_shards` wrote, at any number of ranks: NAME and KIND.NAME as like[NAME], the rows of this rank or the whole.

    Raises CheckpointError when shapes or names differ.
    """
    reader, tensors = HuggingFaceStorageReader(str(folder)), dict[str, Tensor]()
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        name = key if key in like else key.split(".", 1)[1]
        if name not in like or not isinstance(stored, TensorStorageMetadata) or like[name].shape != stored.size:
            what, cure = f"the tensor {key} is not one of this model's", "continue the run with the model that it began with"
            raise CheckpointError(what, where=str(folder), cure=cure)
        tensors[key] = torch.zeros_like(like[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that every rank reads for itself, which is meant
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors
