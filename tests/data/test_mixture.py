"""Several shard folders as one text: shares kept at every moment, each source in its own order, everything traceable."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base.errors import DataError, SettingError
from foretell.base.settings import dump_settings, load_settings
from foretell.corpus.document import Document
from foretell.data.batches import TrainBatches
from foretell.data.config import DataSettings, SourceSettings
from foretell.data.mixture import PERIOD, MixedBatches, MixedShards, Schedule, open_shards, source_seed
from foretell.data.shards import ShardReader

from .conftest import MakeShards


@pytest.fixture
def folders(make_shards: MakeShards, documents: list[Document]) -> list[ShardReader]:
    return [make_shards(documents[start::3], held_out=0.2) for start in range(3)]


def mixed(folders: list[ShardReader], *overrides: str) -> DataSettings:
    named = [f"sources.{name}.shards={folder.path}" for name, folder in zip("abc", folders, strict=False)]
    return load_settings(DataSettings, None, [*named, *overrides])


def batches(data: DataSettings, shards: ShardReader) -> MixedBatches:
    assert isinstance(shards, MixedShards)
    readers = enumerate(shards.sources.values())
    return MixedBatches(data.sources, [TrainBatches(reader.train, source_seed(7, number), 16) for number, reader in readers])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 10**12))
def test_each_source_is_within_one_of_its_share_at_every_moment(weights: list[int], start: int) -> None:
    """Through one whole period, which then repeats, and anywhere later."""
    schedule, total = Schedule(weights), sum(weights)
    assert [share * total for share in schedule.shares] == [weight * sum(schedule.shares) for weight in weights]
    sources, numbers = schedule.at(0, sum(schedule.shares) + 5)
    counts = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    ideal = np.arange(1, len(sources) + 1)[:, None] * np.array(weights) / total
    assert np.abs(counts - ideal).max() < 1
    assert np.array_equal(numbers, counts[np.arange(len(sources)), sources] - 1)
    drawn = schedule.drawn(start)
    assert sum(drawn) == start
    assert all(abs(mine * total - start * weight) < total for mine, weight in zip(drawn, weights, strict=True))
    later, ordinal = schedule.at(start, 40)
    assert [drawn[source] + int((later[:place] == source).sum()) for place, source in enumerate(later)] == ordinal.tolist()


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=20))
def test_any_weights_are_met_to_a_thousandth_and_none_is_forgotten(weights: list[float]) -> None:
    shares = np.array(Schedule(weights).shares)
    assert shares.min() >= 1 and shares.sum() <= PERIOD
    assert np.abs(shares / shares.sum() - np.array(weights) / sum(weights)).max() <= len(weights) / PERIOD


def test_a_mixture_holds_each_source_s_own_order(folders: list[ShardReader]) -> None:
    data = mixed(folders, "sources.a.weight=0.5", "sources.b.weight=0.3", "sources.c.weight=0.2")
    whole = batches(data, open_shards(data))
    batch, (sources, numbers) = whole.batch(3, 50), whole.schedule.at(3, 50)
    for row, (source, number) in enumerate(zip(sources.tolist(), numbers.tolist(), strict=True)):
        alone = TrainBatches(folders[source].train, source_seed(7, source), 16).batch(number, 1)
        assert torch.equal(batch.tokens_BT[row], alone.tokens_BT[0])
        assert torch.equal(batch.targets_BT[row], alone.targets_BT[0])
    again = batches(data, open_shards(data))
    pieces = [again.batch(3, 20), again.batch(23, 1), again.batch(24, 29)]
    assert torch.equal(torch.cat([piece.tokens_BT for piece in pieces]), batch.tokens_BT)
    assert torch.equal(batch.weight_BT, torch.ones(50, 16))
    assert (batch.segments_BT, batch.documents_BT) == (None, None)


def test_a_single_source_is_the_plain_run(folders: list[ShardReader]) -> None:
    data = mixed(folders[:1])
    plain = TrainBatches(folders[0].train, 7, 16).batch(5, 30)
    assert torch.equal(batches(data, open_shards(data)).batch(5, 30).tokens_BT, plain.tokens_BT)


def test_what_is_held_out_is_all_that_the_sources_hold_out(folders: list[ShardReader], documents: list[Document]) -> None:
    shards = open_shards(mixed(folders))
    for name in ("train", "held_out"):
        split, parts = getattr(shards, name), [getattr(folder, name) for folder in folders]
        text = np.concatenate([part.read(0, part.tokens) for part in parts])
        assert np.array_equal(split.read(0, split.tokens), text)
        assert shards.manifest.splits[name].tokens == split.tokens == len(text)
        starts = np.array([0, parts[0].tokens - 5, split.tokens - 9])
        assert np.array_equal(split.windows(starts, 9), np.stack([text[start : start + 9] for start in starts]))
        owners = split.document_at(np.arange(split.tokens))
        assert np.array_equal(np.diff(owners), text[:-1] == split.end_of_text)
        assert [split.document_id(number) for number in (0, split.documents - 1)] == [
            parts[0].document_id(0),
            parts[2].document_id(parts[2].documents - 1),
        ]
        with pytest.raises(IndexError):
            split.read(split.tokens - 1, 2)
    shards.verify()
    assert shards.tokenizer().fingerprint == shards.manifest.tokenizer


def test_a_cap_on_epochs_is_kept_and_told(folders: list[ShardReader]) -> None:
    data = mixed(folders, "sources.a.weight=2", "sources.b.weight=1", "sources.c.weight=1", "sources.a.epochs=1.5")
    run = batches(data, open_shards(data))
    fitting = int(1.5 * run.batches[0].windows) * 2
    told = run.described(fitting // 2, 2)
    assert told[0].startswith("a: 50.0% of the windows, 1.5 times through its")
    with pytest.raises(SettingError, match=r"a would be read 1\.\d+ times, more than its 1\.5") as caught:
        run.described(fitting // 2 + 5, 2)
    assert f"training.steps={fitting // 2} or less" in caught.value.cure
    awkward = mixed(folders, "sources.a.weight=0.12345")
    assert "rounded to thousandths" in batches(awkward, open_shards(awkward)).described(10, 1)[0]


def test_settings_of_sources(folders: list[ShardReader], tmp_path: Path) -> None:
    data = mixed(folders, "sources.b.weight=0.25")
    (tmp_path / "data.toml").write_text(dump_settings(data))
    assert load_settings(DataSettings, tmp_path / "data.toml") == data
    assert data.resolved().sources["b"] == SourceSettings(shards=folders[1].path.resolve(), weight=0.25)
    with pytest.raises(SettingError, match="both say which text"):
        mixed(folders, "shards=x")
    for wrong in ("sources.a.weight=0", "sources.a.epochs=-1", "sources.a.wieght=1"):
        with pytest.raises(SettingError):
            mixed(folders, wrong)


def test_sources_that_are_absent_or_differ_are_named(folders: list[ShardReader], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no shard folder here") as caught:
        open_shards(mixed(folders, f"sources.b.shards={tmp_path / 'nowhere'}"))
    assert caught.value.where.startswith("data.sources.b.shards=")
    with pytest.raises(SettingError, match="does not say which text"):
        open_shards(DataSettings())
    other = folders[1]
    other.manifest = other.manifest.model_copy(update={"tokenizer": "other"})
    with pytest.raises(DataError, match="the sources a and b were made with different tokenizers"):
        MixedShards(dict(zip("abc", folders, strict=True)))
