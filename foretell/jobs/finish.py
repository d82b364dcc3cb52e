"""After the last step: the finished model directory, its held-out score, the report and the card."""

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, remove, seal, write_text
from foretell.base.records import dump, read_json
from foretell.base.settings import dump_settings
from foretell.base.units import count, duration
from foretell.compute.device import peak_bytes
from foretell.evaluation.masked import MaskedScore
from foretell.evaluation.perplexity import Score
from foretell.evaluation.report import write_report
from foretell.interop.huggingface import load_model, save_model, write_provenance
from foretell.jobs.feed import held_out_protocol, held_out_score
from foretell.jobs.prepare import Prepared
from foretell.training.checkpoint import checkpoint_path, kept_weights


def finish_run(prepared: Prepared, weights: dict[str, Tensor], terminal: Terminal) -> dict[str, Any]:
    """Write what a finished run leaves, score it on all held-out text, and return the results. weights: after the last step."""
    run, progress, config = prepared.run, prepared.state.progress, prepared.state.model.config
    recipe = prepared.recipe.model_copy(update={"training": prepared.recipe.training.replace(steps=progress.steps)})
    write_text(run.recipe, dump_settings(recipe))  # with the steps as they came out, should an observer have moved the end
    step = progress.step
    if recipe.training.patience is not None and progress.best_step not in (None, step):
        path = checkpoint_path(run.checkpoints, progress.best_step or step)
        step, weights = progress.best_step or step, kept_weights(path, weights)
        terminal.say(f"the model of step {step}, with the best held-out loss, is kept")
    portable = recipe.model_copy(update={"data": recipe.data.replace(shards=None)})  # the same on every machine
    data, digest = _data_facts(prepared) | read_json(run.facts), hashlib.sha256(dump_settings(portable).encode()).hexdigest()
    with atomic_path(run.model) as partial:
        partial.mkdir()
        save_model(partial, prepared.state.model, prepared.tokenizer, weights)
        write_provenance(partial, {"step": step, "tokens": progress.tokens, "recipe_sha256": digest, "data": data})
        seal(partial)
        remove(run.model)  # of a run that was complete, and was resumed: only now that the new one is whole
    score, how = score_held_out(prepared, run.model, terminal), held_out_protocol(config, recipe.data, "fp32")
    write_text(run.evaluation, dump({"metrics": score.to_metrics(how)}, indent=2))
    machine = {"peak_memory_bytes": max(progress.peak_bytes, peak_bytes()), "threads": prepared.environment["threads"]}
    write_report(run, data, machine, prepared.shards.card)
    values = score.to_json()
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items() if isinstance(value, float))
    terminal.say(f"held-out: {told} ({how})\ntrained {progress.step:,} steps in {duration(progress.elapsed_seconds)}")
    places = {"run": str(run.path), "model": str(run.model), "report": str(run.report)}
    return {**places, "steps": progress.step, "held_out": values}


def score_held_out(prepared: Prepared, folder: Path, terminal: Terminal) -> Score | MaskedScore:
    """The finished model, read back from disk, on all held-out text in fp32."""
    model, recipe = load_model(folder).to(prepared.device), prepared.recipe
    terminal.say(f"scoring {count(prepared.shards.held_out.tokens)} tokens of held-out text")
    micro_batch = recipe.evaluation.micro_batch
    return held_out_score(model, recipe.data, prepared.shards, prepared.tokenizer, micro_batch=micro_batch)


def _data_facts(prepared: Prepared) -> dict[str, Any]:
    manifest = prepared.shards.manifest
    facts = {"tokenizer_sha256": manifest.tokenizer, "held_out": manifest.held_out.method}
    for name, split in manifest.splits.items():
        facts |= {f"{name}_{what}": getattr(split, what) for what in ("tokens", "documents", "bytes")}
    return facts
