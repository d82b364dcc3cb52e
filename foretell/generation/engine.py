"""The one place that reads tokens out of weights. Command line, evaluation, samples during training: all call this."""

import secrets
from collections.abc import Iterator

import torch

from foretell.base.errors import RequestError
from foretell.generation.config import GenerationSettings
from foretell.generation.request import Alternative, Completion, FinishReason, TokenEvent
from foretell.generation.sampling import distribution, draw
from foretell.models.cache import KVCache
from foretell.models.gpt import GPT
from foretell.tokenizers.tokenizer import StreamDecoder, Tokenizer


class Engine:
    """Generates from one model. It owns the KV cache: one prefill over the prompt, then one decode step a token."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def complete(self, prompt: str, settings: GenerationSettings) -> Completion:
        """The whole answer at once."""
        seed = settings.seed if settings.seed is not None else secrets.randbits(31)
        completion = Completion(prompt, "", seed=None if settings.strategy == "greedy" else seed)
        for event in self.stream(prompt, settings.replace(seed=seed)):
            completion.text += event.text
            completion.tokens.append(event.token)
            completion.finish_reason = event.finish_reason or completion.finish_reason
        return completion

    def stream(self, prompt: str, settings: GenerationSettings, *, alternatives: int = 0) -> Iterator[TokenEvent]:
        """Tokens as they come; the last one carries the finish reason. An empty prompt begins a new text.

        Raises RequestError when the prompt does not fit the context, naming both numbers.
        """
        tokens = self.encode_prompt(prompt)
        generator = torch.Generator().manual_seed(settings.seed if settings.seed is not None else secrets.randbits(31))
        decoder, gate = StreamDecoder(self.tokenizer), StopGate(settings.stop)
        room = self.model.config.context_length - len(tokens) + 1  # the last token is never read back
        count = min(settings.max_tokens, room)
        sequence = _Sequence(self.model, capacity=len(tokens) + count - 1)
        logits_V = sequence.read(tokens)
        for index in range(count):
            token = draw(distribution(logits_V, settings), generator)
            ended = token == self.tokenizer.end_of_text
            text = gate.push("" if ended else decoder.push(token))
            reason: FinishReason | None = "end_of_text" if ended else None
            if reason is None and index == count - 1:
                reason = "length" if count == settings.max_tokens else "context"
            if reason is not None:
                text += gate.push(decoder.finish()) + gate.finish()
            reason = "stop" if gate.stopped else reason
            probs_V = logits_V.softmax(dim=-1)
            yield TokenEvent(token, text, float(probs_V[token]), self._likeliest(probs_V, alternatives), reason)
            if reason is not None:
                return
            logits_V = sequence.read([token])

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt. Raises RequestError when they are more than the context holds."""
        tokens = self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text]
        limit = self.model.config.context_length
        if len(tokens) > limit:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens, the model's context holds {limit}",
                where=f"prompt: {prompt[:40]!r}…",
                cure=f"shorten the prompt to its last {limit} tokens or fewer",
            )
        return tokens

    def _likeliest(self, probs_V: torch.Tensor, count: int) -> tuple[Alternative, ...]:
        top = probs_V.topk(min(count, len(probs_V))) if count else None
        if top is None:
            return ()
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return tuple(Alternative(token, self.tokenizer.token_text(token), value) for token, value in pairs)


class _Sequence:
    """One text being read by the model, with its KV cache."""

    def __init__(self, model: GPT, capacity: int) -> None:
        weight = model.head.weight
        self._model = model
        self._cache = KVCache.allocate(model.config, batch=1, capacity=capacity, dtype=weight.dtype, device=weight.device)

    @torch.no_grad()
    def read(self, tokens: list[int]) -> torch.Tensor:
        """Read more tokens; the logits (V,) of what comes next, fp32 on the CPU."""
        weight, was_training = self._model.head.weight, self._model.training
        self._model.eval()
        hidden_BTD = self._model(torch.tensor([tokens], device=weight.device), self._cache)
        self._model.train(was_training)
        self._cache.advance(len(tokens))
        logits_V: torch.Tensor = (hidden_BTD[0, -1] @ weight.t()).float().cpu()
        return logits_V


class StopGate:
    """Lets text through up to the first stop string, and holds back what may become the beginning of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = tuple(stop for stop in stops if stop), ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is certain not to belong to a stop string."""
        self._held += text
        if self.stopped:
            return ""
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        hold = max((self._overlap(stop) for stop in self._stops), default=0)
        ready, self._held = self._held[: len(self._held) - hold], self._held[len(self._held) - hold :]
        return ready

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = "" if self.stopped else self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._held))
        return next((length for length in range(longest, 0, -1) if self._held.endswith(stop[:length])), 0)
