"""After the last step: the finished model directory, its held-out score, the report and the card."""

import hashlib
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, remove, seal, write_text
from foretell.base.records import dump
from foretell.base.settings import dump_settings
from foretell.base.units import duration
from foretell.compute.device import peak_bytes
from foretell.data.batches import held_out_windows
from foretell.evaluation.perplexity import Score, protocol, score_batches
from foretell.evaluation.report import write_card, write_report
from foretell.interop.huggingface import load_model, read_tensors, save_model, write_provenance
from foretell.interop.names import from_hugging_face
from foretell.jobs.prepare import Prepared
from foretell.training.checkpoint import checkpoint_path


def finish_run(prepared: Prepared, terminal: Terminal, facts: dict[str, Any]) -> dict[str, Any]:
    """Write what a finished run leaves, score it on all held-out text, and return the results."""
    run, progress = prepared.run, prepared.state.progress
    best = prepared.recipe.training.patience is not None and progress.best_step is not None
    step = progress.best_step if best and progress.best_step else progress.step
    weights = prepared.state.parameters.named_masters()
    if step != progress.step:
        path = checkpoint_path(run.checkpoints, step)
        weights = from_hugging_face(read_tensors(path), prepared.state.model.config, str(path))
        terminal.say(f"the model of step {step}, with the best held-out loss, is kept")
    data = _data_facts(prepared) | facts
    recipe_digest = hashlib.sha256(dump_settings(prepared.recipe).encode()).hexdigest()
    remove(run.model)  # a resumed run that was complete writes the same again
    with atomic_path(run.model) as partial:
        partial.mkdir()
        save_model(partial, prepared.state.model, prepared.tokenizer, weights)
        write_provenance(partial, {"step": step, "tokens": progress.tokens, "recipe_sha256": recipe_digest, "data": data})
        seal(partial)
    score = score_held_out(prepared, run.model, terminal)
    metrics = score.to_metrics(protocol(prepared.state.model.config.context_length, "fp32"))
    write_text(run.evaluation, dump({"metrics": metrics}, indent=2))
    write_card(run, data, prepared.recipe.generation)
    write_report(run, data, {"peak_memory_bytes": peak_bytes(), "threads": prepared.environment["threads"]})
    terminal.say(
        f"held-out: loss {score.loss:.4f}, perplexity {score.perplexity:.2f}, {score.bits_per_byte:.4f} bits per byte "
        f"({metrics['held_out_bits_per_byte']['protocol']})"
    )
    terminal.say(f"trained {progress.step:,} steps in {duration(progress.elapsed_seconds)}")
    return {
        "run": str(run.path),
        "model": str(run.model),
        "report": str(run.report),
        "steps": progress.step,
        "held_out": score.to_json(),
    }


def score_held_out(prepared: Prepared, folder: Path, terminal: Terminal) -> Score:
    """The finished model, read back from disk, on all held-out text in fp32."""
    model = load_model(folder).to(prepared.device)
    split, settings = prepared.shards.held_out, prepared.recipe.evaluation
    context = model.config.context_length
    with terminal.progress("scoring held-out text", split.tokens, "tokens") as bar:

        def batches() -> Any:
            for batch in held_out_windows(split, context, settings.micro_batch):
                yield batch
                bar.advance(batch.tokens_BT.numel())

        return score_batches(model, batches(), prepared.tokenizer.byte_lengths())


def _data_facts(prepared: Prepared) -> dict[str, Any]:
    manifest = prepared.shards.manifest
    return {
        "shards": str(prepared.shards.path),
        "tokenizer_sha256": manifest.tokenizer,
        "vocab_size": manifest.vocab_size,
        "held_out": manifest.held_out.method,
        **{
            f"{name}_{what}": getattr(split, what)
            for name, split in manifest.splits.items()
            for what in ("tokens", "documents", "bytes")
        },
    }
