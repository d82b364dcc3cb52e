"""A run leaves what it should, continues bit for bit, and refuses what it cannot do."""

import json
import random
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TRAINING, StopAt, quiet, recipe_of, weights

from foretell.base.console import Terminal
from foretell.base.errors import CheckpointError, DataError, ForetellError, Interrupted, ModelError, SettingError
from foretell.base.runs import RunFolder, read_lines
from foretell.data.batches import TrainBatches
from foretell.data.shards import ShardReader
from foretell.interop.huggingface import load_model
from foretell.jobs.pretrain import pretrain
from foretell.jobs.recipe import Recipe
from foretell.training.checkpoint import checkpoints


@pytest.fixture(scope="module")
def finished(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(recipe_of(shards_folder), run, quiet())
    return run


def test_the_run_folder_holds_what_is_promised(finished: Path) -> None:
    metrics = read_lines(finished / "metrics.jsonl")
    assert {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed_seconds"} <= metrics[0].keys()
    assert metrics[-1]["step"] == 24 and metrics[-1]["tokens"] == 24 * 2048
    assert [r["step"] for r in metrics if "held_out_loss" in r] == [6, 12, 18, 24]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [path.name for path in checkpoints(finished / "checkpoints")] == ["step-00000020", "step-00000024"]
    assert len(read_lines(finished / "samples.jsonl")) == 3
    scores = json.loads((finished / "evaluation.json").read_text())["metrics"]["held_out_bits_per_byte"]
    assert scores["low"] < scores["value"] < scores["high"] and "every token scored once" in scores["protocol"]
    report = (finished / "report.html").read_text()
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "n_layer = 1" in (finished / "recipe.toml").read_text()
    assert "bits per byte" in (finished / "model" / "README.md").read_text()


def test_the_run_passes_the_end_of_an_epoch(shards_folder: Path) -> None:
    windows = TrainBatches(ShardReader(shards_folder).train, 1, 32).windows
    assert 10 * 64 < windows < 20 * 64  # 64 windows a step: an epoch ends between the steps 10 and 20 of 24


def test_transformers_opens_the_model_and_gives_the_same_tokens(finished: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import foretell as ft

    model, ours = transformers.AutoModelForCausalLM.from_pretrained(finished / "model"), ft.load(finished / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished / "model")
    inputs = tokenizer("Return the", return_tensors="pt", return_token_type_ids=False)
    theirs = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0][inputs["input_ids"].shape[1] :].tolist()
    assert ours.generate("Return the", strategy="greedy", max_tokens=16).tokens == theirs


def test_the_same_recipe_gives_the_same_bytes(finished: Path, shards_folder: Path, tmp_path: Path) -> None:
    pretrain(recipe_of(shards_folder), tmp_path / "again", quiet())
    assert weights(tmp_path / "again") == weights(finished)


@pytest.mark.parametrize("step", sorted(random.Random(1).sample(range(1, 24), 10)))
def test_stopped_and_resumed_is_bit_for_bit_the_same(finished: Path, shards_folder: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Interrupted, match=f"after step {step}") as caught:
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(step),))
    assert caught.value.exit_code == 130 and "--resume" in caught.value.cure
    assert not (tmp_path / "run" / "model").exists()
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())
    assert weights(tmp_path / "run") == weights(finished)
    told = [
        {k: r[k] for k in ("step", "loss", "grad_norm")}
        for r in read_lines(tmp_path / "run" / "metrics.jsonl")
        if r["step"] != step
    ]
    assert told == [
        {k: r[k] for k in ("step", "loss", "grad_norm")} for r in read_lines(finished / "metrics.jsonl") if r["step"] != step
    ]


KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_runs import quiet, recipe_of
from foretell.jobs.pretrain import pretrain
pretrain(recipe_of(Path({shards!r})), Path({run!r}), quiet(), resume={resume})
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_and_resumed_is_the_same(finished: Path, shards_folder: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL three times at random moments, also inside a save; the last good checkpoint is always there."""
    moments, run = random.Random(seed), tmp_path / "run"
    for _ in range(3):
        script = KILLED_RUN.format(
            tests=str(Path(__file__).parents[1]), shards=str(shards_folder), run=str(run), resume=() if run.exists() else None
        )
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        began_at = len(read_lines(run / "metrics.jsonl"))
        while process.poll() is None and len(read_lines(run / "metrics.jsonl")) <= min(began_at, 9):
            time.sleep(0.005)
        time.sleep(moments.random() * 0.1)
        process.kill()
        process.wait()
    pretrain(recipe_of(shards_folder), run, quiet(), resume=())
    assert weights(run) == weights(finished)
    assert not list(run.rglob(".partial-*"))


def test_resume_without_a_checkpoint_begins_again(finished: Path, shards_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(1),))
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        path.rename(tmp_path / path.name)
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())
    assert weights(tmp_path / "run") == weights(finished)


def test_early_stopping_keeps_the_best_model(shards_folder: Path, tmp_path: Path) -> None:
    changes = {
        "training": {"steps": 400, "patience": 2, "evaluate_every": 5},
        "optimizer": {"learning_rate": 0.3},
        "schedule": {"decay": "constant"},
    }
    result = pretrain(recipe_of(shards_folder, **changes), tmp_path / "run", quiet())
    assert result["steps"] < 400
    scored = [r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "held_out_loss" in r]
    best = min(scored, key=lambda r: r["held_out_loss"])
    assert scored[-1]["step"] == best["step"] + 10  # two evaluations without a gain
    assert json.loads((tmp_path / "run" / "model" / "foretell.json").read_text())["step"] == best["step"]
    kept = load_model(tmp_path / "run" / "checkpoints" / f"step-{best['step']:08d}")
    assert all((a == b).all() for a, b in zip(kept.parameters(), load_model(tmp_path / "run" / "model").parameters(), strict=True))


def test_a_run_that_exists_is_refused(finished: Path, shards_folder: Path) -> None:
    before = weights(finished)
    with pytest.raises(SettingError, match="already exists") as caught:
        pretrain(recipe_of(shards_folder), finished, quiet())
    assert "--resume" in caught.value.cure and weights(finished) == before


def test_resume_refuses_another_model_and_allows_another_rate(finished: Path, shards_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"model.n_layer was 1 .* cannot become 2"):
        pretrain(recipe_of(shards_folder), finished, quiet(), resume=["model.n_layer=2"])
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(9),))
    stream = StringIO()
    terminal = Terminal(quiet=True, stream=stream)
    pretrain(recipe_of(shards_folder), tmp_path / "run", terminal, resume=["optimizer.learning_rate=5e-4"])
    assert "optimizer.learning_rate was 0.001, is 0.0005" in stream.getvalue()
    assert weights(tmp_path / "run") != weights(finished)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "training_state.json"])
def test_one_flipped_bit_in_a_checkpoint_is_found(shards_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(10),))
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged") as caught:
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())
    assert "step-00000008" in caught.value.cure
    newest.rename(tmp_path / "damaged")  # the cure that it names
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())


def test_a_flipped_bit_in_a_model_is_found(finished: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        load_model(tmp_path / "model")


def poison(monkeypatch: pytest.MonkeyPatch, calls: set[int], factor: float = float("nan")) -> list[int]:
    """Multiply the loss of some calls (three micro-batches a step); return the list of calls made."""
    from foretell.training import objective as module

    real, made = module.cross_entropy_sum, list[int]()

    def poisoned(*arguments: Any, **terms: Any) -> Any:
        made.append(1)
        return real(*arguments, **terms) * (factor if len(made) in calls else 1.0)

    monkeypatch.setattr(module, "cross_entropy_sum", poisoned)
    return made


def test_a_bad_batch_is_skipped_and_recorded(shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {20})
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet())
    skipped = [record for record in read_lines(tmp_path / "run" / "metrics.jsonl") if "skipped" in record]
    assert [record["step"] for record in skipped] == [7] and "not a finite number" in skipped[0]["skipped"]
    progress = json.loads((tmp_path / "run" / "checkpoints" / "step-00000024" / "training_state.json").read_text())["progress"]
    assert (progress["skipped"], progress["rollbacks"], len(progress["recent_losses"])) == (1, 0, 23)


@pytest.mark.parametrize("stop", [8, 9, 11, 12, 15])
def test_three_in_a_row_go_back_and_jump_the_same_way_whenever_it_is_stopped(
    shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """The windows of the batches 9 to 11 are bad, whoever reads them: back to step 8, past them; resumed or not."""
    from foretell.data.batches import TrainBatches

    real = TrainBatches.batch

    def batch(self: TrainBatches, first_sample: int, count: int) -> Any:
        found = real(self, first_sample, count)
        if 9 <= first_sample // 64 < 12:
            found.weight_BT[0, 0] = float("nan")
        return found

    monkeypatch.setattr(TrainBatches, "batch", batch)
    pretrain(recipe_of(shards_folder), tmp_path / "whole", quiet())
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(stop),))
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000024" / "training_state.json").read_text())["progress"]
    assert (state["rollbacks"], state["went_back_to"], state["jumped"]) == (1, 8, 4 * 64)
    steps = [record["step"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 24
    assert "not a finite number" in (tmp_path / "run" / "log.txt").read_text()


def test_going_back_does_not_undo_a_changed_end(shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(9),))
    poison(monkeypatch, {1, 2, 3, 4, 5, 6, 7, 8, 9})
    assert pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=("training.steps=28",))["steps"] == 28


def test_a_run_that_cannot_be_helped_ends_and_names_the_cure(
    shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(1, 1000)))
    with pytest.raises(ForetellError, match="no earlier checkpoint") as caught:
        pretrain(recipe_of(shards_folder), tmp_path / "first", quiet())
    assert caught.value.exit_code == 1 and caught.value.where == "step 3" and "learning_rate" in caught.value.cure
    assert "Diverged" in (tmp_path / "first" / "log.txt").read_text()
    monkeypatch.undo()
    poison(monkeypatch, set(range(20, 1000)))
    with pytest.raises(ForetellError, match="going back 3 times did not help"):
        pretrain(recipe_of(shards_folder), tmp_path / "later", quiet())
    assert checkpoints(tmp_path / "later" / "checkpoints")[-1].name == "step-00000004"
    monkeypatch.undo()
    pretrain(recipe_of(shards_folder), tmp_path / "later", quiet(), resume=())


EXTRAS = {
    "average": {"training": {"ema_decay": 0.9}},
    "muon": {"optimizer": {"name": "muon"}},
    "sgd": {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "ramp": {"schedule": {"batch_ramp_steps": 15, "decay": "inverse_sqrt"}},
    "documents": {"data": {"document_mask": True}},
    "bf16": {"training": {"precision": "bf16", "ema_decay": 0.9}},
    "lstm-bf16": {"training": {"precision": "bf16"}, "model": {"preset": "lstm", "d_hidden": 32, "n_head": None}},
    "at once": {"training": {"async_checkpoint": False, "checkpoint_activations": True}},
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_whatever_is_on_resumed_is_bit_for_bit_the_same(extra: str, shards_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(shards_folder, **EXTRAS[extra])
    pretrain(recipe, tmp_path / "whole", quiet())
    with pytest.raises(Interrupted):
        pretrain(recipe, tmp_path / "run", quiet(), extra=(StopAt(13),))
    pretrain(recipe, tmp_path / "run", quiet(), resume=())
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    ends = [read_lines(tmp_path / name / "metrics.jsonl")[-1]["held_out_loss"] for name in ("whole", "run")]
    assert ends[0] == ends[1]


def test_start_from_begins_with_a_models_weights(finished: Path, shards_folder: Path, tmp_path: Path) -> None:
    training, optimizer = {**TRAINING, "steps": 1}, {"learning_rate": 1e-12}
    sections = {"data": {"shards": shards_folder}, "model": {"start_from": finished / "model"}}
    recipe = Recipe.model_validate({**sections, "training": training, "optimizer": optimizer})
    pretrain(recipe, tmp_path / "run", quiet())
    start, end = load_model(finished / "model"), load_model(tmp_path / "run" / "model")
    for before, after in zip(start.parameters(), end.parameters(), strict=True):
        assert (before - after).abs().max() < 1e-6
    assert RunFolder(tmp_path / "run").recipe.read_text().count("n_layer = 1")


def test_resume_refuses_other_shards(finished: Path, shards_folder: Path, tmp_path: Path) -> None:
    import shutil

    shards = tmp_path / "shards"
    shutil.copytree(shards_folder, shards)
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards), tmp_path / "run", quiet(), extra=(StopAt(5),))
    manifest = (shards / "manifest.json").read_text()
    (shards / "manifest.json").write_text(manifest.replace('"fraction": 0.1', '"fraction": 0.2'))
    with pytest.raises(DataError, match="not the shards that the run began with"):
        pretrain(recipe_of(shards), tmp_path / "run", quiet(), resume=())
    (shards / "manifest.json").write_text(manifest)
    tokens = bytearray((shards / "train-tokens.bin").read_bytes())
    tokens[1000] ^= 1
    (shards / "train-tokens.bin").write_bytes(tokens)
    with pytest.raises(DataError, match="changed since"):
        pretrain(recipe_of(shards), tmp_path / "run", quiet(), resume=())


def test_a_damaged_best_checkpoint_is_not_made_the_model(shards_folder: Path, tmp_path: Path) -> None:
    changes = {"training": {"steps": 400, "patience": 1, "evaluate_every": 5}, "optimizer": {"learning_rate": 0.3}}
    run = tmp_path / "run"
    pretrain(recipe_of(shards_folder, **changes), run, quiet())
    best = json.loads((run / "model" / "foretell.json").read_text())["step"]
    before, path = weights(run), run / "checkpoints" / f"step-{best:08d}" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        pretrain(recipe_of(shards_folder), run, quiet(), resume=())
    assert weights(run) == before


def test_patience_may_be_added_on_resume(shards_folder: Path, tmp_path: Path) -> None:
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet())
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=["training.steps=36", "training.patience=1"])
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_signal_after_the_last_observer_is_saved(shards_folder: Path, tmp_path: Path) -> None:
    """The stop may be asked for when the step's checkpoint was due no more."""
    from foretell.jobs import pretrain as job

    class Late(StopAt):
        pass

    original = job.Now
    try:
        job.Now = lambda action, every, also=lambda state: False: lambda state, report: None  # no observer saves
        with pytest.raises(Interrupted, match="after step 7"):
            pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(Late(7),))
    finally:
        job.Now = original
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000007"]


def test_report_and_card_keep_their_facts_over_a_resume(shards_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), extra=(StopAt(5),), facts={"sources": "my own text"})
    pretrain(recipe_of(shards_folder), tmp_path / "run", quiet(), resume=())
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "my own text" in card and str(shards_folder) not in card
