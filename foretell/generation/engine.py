"""The one place that reads tokens out of weights. Command line, evaluation, samples during training: all call this."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from foretell.base.errors import RequestError
from foretell.generation.config import GenerationSettings
from foretell.generation.sampling import distribution, draw
from foretell.models.cache import Cache
from foretell.models.network import LanguageModel
from foretell.tokenizers.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "end_of_text", "length", "context"]


@dataclass(frozen=True)
class Alternative:
    """A token that could have come, and the model's own probability for it (before temperature and filters)."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    text: what became certain with it (a half character or the beginning of a stop string is held back).
    probability: the model's own. alternatives: the likeliest tokens of that step, best first, when asked for.
    """

    token: int
    text: str
    probability: float
    alternatives: tuple[Alternative, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass
class Completion:
    """A whole answer. seed: the one that repeats it; absent where nothing is left to chance."""

    prompt: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    seed: int | None = None


class Engine:
    """Generates from one model. It owns the cache: one prefill over the prompt, then one decode step a token."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def complete(self, prompt: str | Sequence[int], settings: GenerationSettings) -> Completion:
        """The whole answer at once."""
        seed, text = settings.chosen_seed(), prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)
        completion = Completion(text, seed=None if settings.strategy == "greedy" else seed)
        for event in self.stream(prompt, settings.replace(seed=seed)):
            completion.text += event.text
            completion.tokens.append(event.token)
            completion.finish_reason = event.finish_reason or completion.finish_reason
        return completion

    def stream(self, prompt: str | Sequence[int], settings: GenerationSettings, *, alternatives: int = 0) -> Iterator[TokenEvent]:
        """Tokens as they come; the last one carries the finish reason. An empty prompt begins a new text.

        prompt: a text, or its ids (a rendered conversation, whose special tokens no text can write). Raises RequestError when
        it does not fit the context, naming both numbers.
        """
        tokens, generator = self.encode_prompt(prompt), torch.Generator().manual_seed(settings.chosen_seed())
        decoder, gate = StreamDecoder(self.tokenizer), StopGate(settings.stop)
        room = self.model.config.context_length - len(tokens) + 1  # the last token is written, never read
        count = min(settings.max_tokens, room)
        limit: FinishReason = "length" if count == settings.max_tokens else "context"
        cache = self.model.new_cache(1, len(tokens) + count - 1)
        for left in reversed(range(count)):
            logits_V = self._read(tokens, cache)
            token = draw(distribution(logits_V, settings), generator)
            tokens, ended = [token], token in self.tokenizer.ends
            text = gate.push("" if ended else decoder.push(token))
            if ended or not left:
                text += gate.push(decoder.finish()) + gate.finish()
            reason: FinishReason | None = "stop" if gate.stopped else "end_of_text" if ended else None if left else limit
            probs_V = logits_V.softmax(dim=-1)
            yield TokenEvent(token, text, float(probs_V[token]), self._likeliest(probs_V, alternatives), reason)
            if reason is not None:
                return

    def encode_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """Ids of a prompt. Raises RequestError when they are more than the context holds."""
        tokens = [*self.tokenizer.beginning, *self.tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt)
        tokens, limit = tokens or [self.tokenizer.start], self.model.config.context_length
        if len(tokens) > limit:
            what, cure = f"the prompt has {len(tokens)} tokens, the model's context holds {limit}", "give a shorter prompt"
            raise RequestError(what, where=f"prompt: {self.tokenizer.decode(tokens[:16])[:40]!r}…", cure=cure)
        return tokens

    @torch.no_grad()
    def _read(self, tokens: list[int], cache: Cache) -> Tensor:
        """Read more tokens into the cache; the logits (V,) of what comes next, fp32 on the CPU."""
        weight, was_training = self.model.head.weight, self.model.training
        self.model.eval()
        hidden_BTD = self.model(torch.tensor([tokens], device=weight.device), cache)
        self.model.train(was_training)
        cache.advance(len(tokens))
        logits_V: Tensor = (hidden_BTD[0, -1] @ weight[: self.tokenizer.vocab_size].t()).float().cpu()  # padded rows are no tokens
        return logits_V

    def _likeliest(self, probs_V: Tensor, count: int) -> tuple[Alternative, ...]:
        top = probs_V.topk(min(count, len(probs_V)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return tuple(Alternative(token, self.tokenizer.token_text(token), probability) for token, probability in pairs)


class StopGate:
    """Lets text through up to the first stop string, and holds back what may become the beginning of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held, self.stopped = stops, "", False

    def push(self, text: str) -> str:
        """What is now certain not to belong to a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else self._first_beginning()
        ready, self._held = self._held[:certain], self._held[certain:]
        return ready

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        return "" if self.stopped else self._held

    def _first_beginning(self) -> int:
        """Where the held text ends in the beginning of a stop string; its length where it does not."""
        places = range(len(self._held))
        return next((n for n in places if any(stop.startswith(self._held[n:]) for stop in self._stops)), len(self._held))
