"""Several shard folders as one text: which of them a sample is from is a pure function of its number, by error diffusion.

After any number g of samples, every source was drawn from within one of its share of g. A source's own samples come in the order
that it has alone. The schedule repeats after at most PERIOD samples, so that any place in it is found at once; within a period each
draw has a first and a last place where it keeps to that bound, and the draw whose last place is next comes first ("Pfair" windows:
Baruah et al. 1996, "Proportionate progress").
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import lcm
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foretell.base.errors import DataError, SettingError
from foretell.base.units import count as counted
from foretell.data.batches import Batch, TrainBatches
from foretell.data.config import DataSettings, SourceSettings
from foretell.data.corruption import MaskedBatches
from foretell.data.held_out import HeldOut
from foretell.data.order import STRIDE, WORD
from foretell.data.shards import SPLITS, Manifest, ShardReader, Split, SplitRecord
from foretell.tokenizers.tokenizer import Tokenizer

PERIOD = 1000  # samples; weights that are not exact in such a period are rounded to thousandths
Integers = NDArray[np.int64]


class Schedule:
    """Which source each sample is from, and which of that source's samples it is. shares: draws of each in a period."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = _shares(weights)
        self._draws, (self._sources, self._before) = np.array(self.shares), _period(self.shares)

    def at(self, first_sample: int, count: int) -> tuple[Integers, Integers]:
        """The source of samples first_sample … first_sample + count - 1, and their numbers within it."""
        period, place = np.divmod(np.arange(first_sample, first_sample + count), len(self._sources))
        source = self._sources[place]
        return source, period * self._draws[source] + self._before[place, source]

    def drawn(self, samples: int) -> list[int]:
        """How many of the first `samples` samples are each source's."""
        period, place = divmod(samples, len(self._sources))
        return [period * share + int(before) for share, before in zip(self.shares, self._before[place], strict=True)]


class MixedBatches:
    """Training batches out of several sources, a pure function of which samples."""

    def __init__(self, sources: dict[str, SourceSettings], batches: Sequence[TrainBatches | MaskedBatches]) -> None:
        """batches: of each source, in the order of `sources`."""
        self.sources, self.batches = sources, batches
        self.schedule = Schedule([source.weight for source in sources.values()])

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run."""
        source_B, number_B = self.schedule.at(first_sample, count)
        rows = [np.flatnonzero(source_B == source) for source in range(len(self.batches))]
        parts = [
            batches.batch(int(number_B[mine[0]]), len(mine)) for batches, mine in zip(self.batches, rows, strict=True) if len(mine)
        ]
        place_B = torch.from_numpy(np.argsort(np.concatenate(rows)))

        def merged(name: str) -> torch.Tensor:
            return torch.cat([getattr(part, name) for part in parts]).index_select(0, place_B)

        return replace(parts[0], **{name: merged(name) for name, value in vars(parts[0]).items() if value is not None})

    def described(self, steps: int, rows: int) -> list[str]:
        """What a run of so many steps of `rows` windows reads of each source. Raises SettingError for more than its `epochs`."""
        told, period = [], sum(self.schedule.shares)
        wanted = np.array([source.weight for source in self.sources.values()])
        if not np.allclose(np.array(self.schedule.shares) / period, wanted / wanted.sum(), rtol=1e-9, atol=0):
            told.append("the weights of data.sources are rounded to thousandths")
        drawn = self.schedule.drawn(steps * rows)
        for (name, source), batches, share, windows in zip(
            self.sources.items(), self.batches, self.schedule.shares, drawn, strict=True
        ):
            times = windows / batches.windows
            if source.epochs is not None and times > source.epochs:
                what = f"{name} would be read {times:.2f} times, more than its {source.epochs:g}"
                fitting = int(source.epochs * batches.windows * period / share) // rows
                cure = f"set training.steps={fitting} or less, lower its weight, or raise data.sources.{name}.epochs"
                raise SettingError(what, where=f"data.sources.{name}.epochs", cure=cure)
            told.append(
                f"{name}: {share / period:.1%} of the windows, {times:.2g} times through its {counted(batches.windows)} windows"
            )
        return told


def source_seed(seed: int, number: int) -> int:
    """The seed of the source with this number: the run's own for the first."""
    return (seed + number * STRIDE) % WORD


class MixedShards(ShardReader):
    """Several shard folders with one tokenizer. Held out is what they all hold out, one behind the other."""

    def __init__(self, sources: dict[str, ShardReader]) -> None:
        """Raises DataError for sources with different tokenizers."""
        self.sources, readers = sources, list(sources.values())
        first = readers[0].manifest
        for name, reader in sources.items():
            if (reader.manifest.tokenizer, reader.manifest.end_of_text) != (first.tokenizer, first.end_of_text):
                what = f"the sources {next(iter(sources))} and {name} were made with different tokenizers"
                cure = f"make both with one: foretell shards build CORPUS --tokenizer {readers[0].path / 'tokenizer'} --out DIR"
                raise DataError(what, where=f"data.sources.{name}.shards", cure=cure)
        self.path, self.state = readers[0].path, " ".join(reader.state for reader in readers)
        self.train, self.held_out = (JoinedSplit([getattr(reader, name) for reader in readers]) for name in SPLITS)
        splits = {
            name: SplitRecord(files={}, tokens=split.tokens, documents=split.documents, bytes=split.bytes)
            for name, split in zip(SPLITS, (self.train, self.held_out), strict=True)
        }
        plans = [reader.manifest.held_out for reader in readers]
        method = "; ".join(f"{name}: {plan.method}" for name, plan in zip(sources, plans, strict=True))
        fraction, characters = max(plan.fraction for plan in plans), sum(plan.characters for plan in plans)
        held_out = HeldOut(method=method, fraction=fraction, characters=characters, ends={})
        self.manifest: Manifest = first.model_copy(update={"held_out": held_out, "splits": splits})

    @property
    def card(self) -> str:
        """What the sources' corpora say of themselves."""
        return "\n".join(f"## {name}\n\n{reader.card}" for name, reader in self.sources.items() if reader.card)

    def verify(self) -> None:
        """Compare every file of every source with its checksum."""
        for reader in self.sources.values():
            reader.verify()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that all sources were encoded with."""
        return next(iter(self.sources.values())).tokenizer()


class JoinedSplit(Split):
    """The splits of several folders, one behind the other."""

    def __init__(self, parts: Sequence[Split]) -> None:
        self.parts, self.folder, self.end_of_text = parts, parts[0].folder, parts[0].end_of_text
        self.tokens, self.documents, self.bytes = (
            sum(getattr(part, name) for part in parts) for name in ("tokens", "documents", "bytes")
        )
        self._tokens_before = np.cumsum([0, *(part.tokens for part in parts)])
        self._documents_before = np.cumsum([0, *(part.documents for part in parts)])

    def read(self, start: int, length: int) -> Integers:
        """`length` >= 1 tokens from `start`."""
        if not 0 <= start < start + length <= self.tokens:
            raise IndexError(f"tokens {start} to {start + length} of {self.tokens}")
        found = []
        for part, before in zip(self.parts, self._tokens_before.tolist(), strict=False):
            first, end = max(start - before, 0), min(start + length - before, part.tokens)
            if first < end:
                found.append(part.read(first, end - first))
        return np.concatenate(found)

    def windows(self, starts_B: Integers, length: int) -> Integers:
        """(B, length) tokens from each of these places on."""
        return np.stack([self.read(start, length) for start in starts_B.tolist()])

    def document_at(self, positions: ArrayLike) -> Integers:
        """The numbers of the documents that hold the tokens at these positions (any shape), those of earlier folders first."""
        places = np.asarray(positions)
        owners = np.searchsorted(self._tokens_before, places, side="right") - 1
        found = np.empty(places.shape, np.int64)
        for number, part in enumerate(self.parts):
            mine = owners == number
            found[mine] = part.document_at(places[mine] - self._tokens_before[number]) + self._documents_before[number]
        return found

    def document_id(self, number: int) -> str:
        """The corpus's id of a document."""
        part = int(np.searchsorted(self._documents_before, number, side="right")) - 1
        return self.parts[part].document_id(number - int(self._documents_before[part]))


def open_shards(data: DataSettings, state: str | None = None) -> ShardReader:
    """What a recipe says to train on. state: of the reader that a run began with. Raises SettingError, DataError."""
    folders: dict[str, Path | None] = (
        {name: source.shards for name, source in data.sources.items()} if data.sources else {"": data.shards}
    )
    states = state.split() if state else []
    for name, folder in folders.items():
        if folder is None or not folder.is_dir():
            what = "there is no shard folder here" if folder else "the recipe does not say which text to train on"
            where = f"data.sources.{name}.shards" if name else "data.shards"
            cure = "make one with `foretell shards build`, and name it: data.shards=DIR"
            raise SettingError(what, where=f"{where}={folder or ''}", cure=cure)
    wanted: list[str | None] = [*states] if len(states) == len(folders) else [None] * len(folders)
    readers = {name: ShardReader(Path(str(folder)), one) for (name, folder), one in zip(folders.items(), wanted, strict=True)}
    return MixedShards(readers) if data.sources else readers[""]


def _shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each source in a period: exact where PERIOD samples allow it, else thousandths by largest remainders."""
    exact = [Fraction(str(float(weight))) for weight in weights]
    exact = [weight / sum(exact) for weight in exact]
    if (period := lcm(*(weight.denominator for weight in exact))) <= PERIOD:
        return tuple(int(weight * period) for weight in exact)
    shares = [max(1, int(weight * PERIOD)) for weight in exact]
    while missing := PERIOD - sum(shares):
        lacks = {
            weight * PERIOD - share: place
            for place, (weight, share) in enumerate(zip(exact, shares, strict=True))
            if missing > 0 or share > 1
        }
        shares[lacks[max(lacks) if missing > 0 else min(lacks)]] += 1 if missing > 0 else -1
    return tuple(shares)


@lru_cache(maxsize=16)
def _period(shares: tuple[int, ...]) -> tuple[Integers, Integers]:
    """The sources of a period's samples, and (period + 1, sources) how many of each come before a sample."""
    period, sources = sum(shares), range(len(shares))
    drawn, order = [0] * len(shares), []
    for place in range(period):
        open_now = [source for source in sources if drawn[source] * period // shares[source] <= place]
        chosen = min(open_now, key=lambda source: -(-(drawn[source] + 1) * period // shares[source]))
        drawn[chosen] += 1
        order.append(chosen)
    taken = np.array(order)[:, None] == np.arange(len(shares))
    return np.array(order), np.concatenate([np.zeros((1, len(shares)), np.int64), np.cumsum(taken, axis=0)])
