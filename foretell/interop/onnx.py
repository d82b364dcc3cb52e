"""ONNX, the graph that onnxruntime, transformers.js and others run: a decoder with its KV cache, an encoder, a task model.

The inputs and outputs have the names that those programs look for; weights are fp32. With P tokens in the cache and T new ones:

decoder       input_ids (B, T), attention_mask (B, P + T), past_key_values.N.key and .value (B, G, P, K) of each layer N
              → logits (B, T, V), present.N.key and .value (B, G, P + T, K); P = 0 reads a prompt
encoder       input_ids, attention_mask, token_type_ids (B, T)
              → logits (B, T, V) of its masked head; without one last_hidden_state (B, T, D) and pooler_output (B, D)
task model    as its body, without a cache → logits as in models/heads.py; spans: start_logits and end_logits (B, T)
"""

import contextlib
import dataclasses
import importlib
import logging
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foretell.base.errors import ModelError
from foretell.base.files import atomic_path, remove, require_new
from foretell.interop.configs import NATIVE
from foretell.interop.huggingface import to_foreign, write_foreign
from foretell.models.bert import BERT
from foretell.models.build import assign, build_empty
from foretell.models.cache import KVCache
from foretell.models.gpt import GPT
from foretell.models.heads import TaskModel
from foretell.models.network import Network
from foretell.tokenizers.tokenizer import Tokenizer

OPSET = 23  # the first with attention and RMSNorm as operators; of what the exporter writes at 25, onnxruntime 1.31 refuses some
INLINE_UP_TO = 1_500_000_000  # bytes of weights within the graph's own file, which protobuf ends at 2 GiB
FILE, WEIGHTS = "model.onnx", "model.onnx_data"
STEPS, TOLERANCE = 4, 1e-3  # tokens of a probe that are decoded one by one; difference as part of the largest output
TRACED = {"batch": 2, "sequence": 3, "past": 5, "total": 8}  # a size of 0 or 1 would be taken for a constant


def write_onnx(model: Network | TaskModel, folder: Path, tokenizer: Tokenizer | None) -> list[str]:
    """Write model.onnx, config and tokenizer into an existing folder; above 1.5 GB the weights are in model.onnx_data.

    Returns what the user should know. Raises ModelError for an LSTM and where packages are missing.
    """
    for name in (FILE, WEIGHTS):
        require_new(folder / name)
    graph, foreign = _Graph(model, str(folder)), to_foreign(model, tokenizer)
    program = _trace(graph, script := _package("onnxscript", str(folder)))
    for node in program.graph:
        node.metadata_props.clear()  # lines of source, with this machine's paths
    size = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    with contextlib.ExitStack() as undo, atomic_path(folder / FILE) as partial:
        undo.callback(remove, folder / WEIGHTS)
        script.ir.save(program, partial, external_data=WEIGHTS if size > INLINE_UP_TO else None)
        write_foreign(folder, dataclasses.replace(foreign, tensors={}))
        remove(folder / "model.safetensors")  # of no tensors
        undo.pop_all()  # all is written: nothing to undo
    notes = []
    if foreign.config["model_type"] == NATIVE:
        notes.append("config.json is Foretell's own: onnxruntime runs the graph, transformers.js and optimum do not know the model")
    if isinstance(model, BERT) and model.transform is not None and model.next_sentence is not None:
        notes.append("the graph gives the masked head's logits; the next-sentence head is left out")
    return notes


def verify_onnx(model: Network | TaskModel, folder: Path, tokens_BT: Tensor) -> float:
    """The largest difference between what onnxruntime makes of model.onnx on the CPU and what the model gives.

    tokens_BT: a probe. Of two rows or more the last begins or, for an encoder, ends with padding. A decoder reads a prompt, then
    single tokens with its cache, and is compared with reading all at once. Raises ModelError above 1/1000 of the largest output.
    """
    where = str(folder / FILE)
    runtime, graph = _package("onnxruntime", where), _Graph(model, where)
    try:
        (options := runtime.SessionOptions()).log_severity_level = 3  # errors
        session = runtime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no class in common
        raise ModelError("onnxruntime cannot open the graph", where=where, cure="export the model again") from error
    tokens_BT = tokens_BT[:, : graph.config.context_length].long().cpu()
    keep_BT, time = torch.ones_like(tokens_BT), tokens_BT.shape[1]
    if (padding := time // 4) and len(tokens_BT) > 1:
        keep_BT[-1, slice(padding) if graph.config.causal else slice(-padding, None)] = 0

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(graph.axes, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    with torch.no_grad():
        if isinstance(graph.model, GPT):
            ours = [graph.model.logits(tokens_BT, None, keep_BT.bool())]
            logits, past = list[Tensor](), graph.past(len(tokens_BT), 0)
            for start, end in pairwise((0, *range(max(1, time - STEPS), time + 1))):
                logits_BTV, *past = run(tokens_BT[:, start:end], keep_BT[:, :end], *past)
                logits.append(logits_BTV)
            theirs = [torch.cat(logits, dim=1)]
        else:
            segments_BT = (torch.arange(time) * (graph.config.n_segments or 1) // time).expand_as(tokens_BT)
            inputs = [tokens_BT, keep_BT, segments_BT][: len(graph.axes)]
            theirs, ours = run(*inputs), list(graph(inputs))
    difference = torch.stack([(one - other).abs().max() for one, other in zip(theirs, ours, strict=True)]).max().item()
    limit = TOLERANCE * max(float(output.abs().max()) for output in ours)
    if not difference <= limit:  # so put, it is true of what is no number
        what = f"onnxruntime's outputs differ from the model's by {difference:.1e}, more than {limit:.1e}"
        raise ModelError(what, where=where, cure="export the model again with other versions of torch, onnxscript or onnxruntime")
    return difference


class _Joined(KVCache):
    """A cache that gives old and new joined: a graph has no memory to write into."""

    def __init__(self, past: list[Tensor]) -> None:
        self.past, self.present, self.length = past, list[Tensor](), past[0].shape[2]

    def extend(self, layer: int, keys_BGTK: Tensor, values_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's old keys and values with the new ones behind them."""
        keys_BGSK = torch.cat((self.past[2 * layer], keys_BGTK), dim=2)
        values_BGSK = torch.cat((self.past[2 * layer + 1], values_BGTK), dim=2)
        self.present += [keys_BGSK, values_BGSK]
        return keys_BGSK, values_BGSK


class _Graph(nn.Module):
    """A model, its weights fp32 on the CPU, as a function of a list of tensors; a decoder's memory comes and goes with them."""

    def __init__(self, model: Network | TaskModel, where: str) -> None:
        super().__init__()
        body, head = (model.body, model.head_config) if isinstance(model, TaskModel) else (model, None)
        if not isinstance(body, GPT | BERT):
            cure = "export a GPT or a BERT; an LSTM is kept as a model directory"
            raise ModelError("an LSTM is not written as ONNX", where=where, cure=cure)
        self.model, self.config = build_empty(body.config, head), body.config
        assign(self.model, {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()})
        self.eval()
        if isinstance(self.model, GPT):
            self.model.prepare(self.config.context_length)  # the graph holds the angles of every position
        read, self.outputs = {0: "batch", 1: "sequence"}, ["logits"]
        self.axes = {"input_ids": read, "attention_mask": read}
        if isinstance(body, BERT):
            self.axes["token_type_ids"] = read
        if isinstance(model, GPT):
            names = [f"{layer}.{kind}" for layer in range(self.config.n_layer) for kind in ("key", "value")]
            self.axes["attention_mask"] = {0: "batch", 1: "total"}
            self.axes |= {f"past_key_values.{name}": {0: "batch", 2: "past"} for name in names}
            self.outputs += [f"present.{name}" for name in names]
        elif isinstance(model, BERT) and model.transform is None:
            self.outputs = ["last_hidden_state", "pooler_output"][: 1 if model.pooler is None else 2]
        elif head is not None and head.kind == "spans":
            self.outputs = ["start_logits", "end_logits"]

    def past(self, batch: int, length: int) -> list[Tensor]:
        """Keys and values of so many tokens, zeros; none for what keeps none."""
        shape = (batch, self.config.n_kv_head, length, self.config.d_head)
        return [torch.zeros(shape) for name in self.axes if name.startswith("past_key_values")]

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        tokens_BT, keep_BS, *more = inputs
        if isinstance(self.model, GPT):
            cache = _Joined(more)
            return self.model.logits(tokens_BT, cache, keep_BS.bool()), *cache.present
        read: Tensor = self.model(tokens_BT, more[0] if more else None, keep_BS.bool())
        if isinstance(self.model, TaskModel):
            return read.unbind(-1) if len(self.outputs) == 2 else (read,)
        assert isinstance(self.model, BERT)  # noqa: S101 — as its config says
        if self.model.transform is not None:
            return (self.model.masked_logits(read),)
        return (read, self.model.pooled(read)) if len(self.outputs) == 2 else (read,)


def _trace(graph: _Graph, script: Any) -> Any:
    """The exporter's graph. It talks of its own insides and of packages that nothing here uses: these words are silenced."""
    operators, logger = script.values.Opset("", OPSET), logging.getLogger("torch.onnx._internal.exporter._registration")

    def attention(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False, **words: Any) -> Any:
        return operators.Attention(q, k, v, mask, is_causal=int(causal), scale=words["scale"])[0]

    read = [torch.ones([TRACED[axis] for axis in axes.values()], dtype=torch.long) for axes in graph.axes.values() if 1 in axes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used, since it shares", UserWarning)
        logger.disabled = True
        try:
            program: Any = torch.onnx.export(
                graph,
                ([*read, *graph.past(TRACED["batch"], TRACED["past"])],),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                # the exporter's own refuses enable_gqa where there are as many KV heads as query heads
                custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: attention},
                dynamic_shapes=([*graph.axes.values()],),
                input_names=[*graph.axes],
                output_names=graph.outputs,
            )
        finally:
            logger.disabled = False
    return program.model


def _package(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cure = 'pip install "foretell[onnx]"'
        raise ModelError(f"ONNX needs the package {name}, which is not installed", where=where, cure=cure) from error
