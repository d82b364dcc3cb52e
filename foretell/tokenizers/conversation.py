"""A conversation as token ids, and which of them to learn: the only place that renders one, for training and answering alike."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from os.path import commonprefix
from typing import TypedDict

from foretell.base.errors import ModelError, RequestError
from foretell.tokenizers.template import write
from foretell.tokenizers.tokenizer import ROLES as TOKEN_ROLES
from foretell.tokenizers.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
DEFAULT_TEMPLATE = (  # ChatML
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL = re.compile(r"<([|｜])[^\s<>|｜'\"]+\1>")  # how templates spell special tokens: <|im_end|>, DeepSeek's <｜User｜>
MARKS = range(0xE000, 0xF900)  # Unicode's private use area

Write = Callable[[list[str]], str]  # contents of the messages → what the template makes of them


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as a model reads it. learned: for each id whether it is the assistant's to write."""

    ids: list[int]
    learned: list[bool]
    text: str


@dataclass(frozen=True)
class Span:
    """Where the content of a message stands in a text, in characters."""

    start: int
    end: int
    message: int


def checked(messages: object, where: str = "messages") -> list[Message]:
    """Role and text of each message of `[{role, content}, …]`; other keys are not read. Raises RequestError."""
    cure = 'give a list such as [{"role": "user", "content": "Hello"}]'
    if not isinstance(messages, list) or not messages:
        raise RequestError("a conversation is a list of one message or more", where=where, cure=cure)
    result: list[Message] = []
    for number, message in enumerate(messages, start=1):
        place = f"{where}, message {number}"
        if not isinstance(message, Mapping):
            raise RequestError("a message is an object with a role and a content", where=place, cure=cure)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RequestError(f"there is no role {role!r}", where=place, cure=f"use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise RequestError("the content of a message is missing, or is no text", where=place, cure=cure)
        result.append({"role": role, "content": content})
    return result


def missing_tokens(template: str, tokenizer: Tokenizer) -> list[str]:
    """The control tokens, such as `<|im_end|>`, that a template spells and a tokenizer has no token for."""
    specials = tokenizer.special_ids
    spelled = dict.fromkeys(match[0] for match in CONTROL.finditer(template))
    return [token for token in spelled if token not in specials and len(tokenizer.encode(token)) > 1]


def render(
    messages: object,
    tokenizer: Tokenizer,
    *,
    template: str | None = None,
    add_generation_prompt: bool = False,
    where: str = "messages",
) -> Rendered:
    """The ids of `[{role, content}, …]`: those of transformers' apply_chat_template, and to be read as they are, with no BOS added.

    Special tokens are what the template writes; spelled in a content they are text as any other. Learned are the assistant's
    contents, each with the special token that closes it and with a first token that begins before it, as one of "\\n\\n" may.
    template: Jinja, instead of the tokenizer's. where: named in errors.
    Raises RequestError for messages that are none or that the template refuses, ModelError for a template that fails.
    """
    conversation, template = checked(messages, where), template or tokenizer.chat_template
    if template is None:
        cure = "fine-tune the model on conversations, or give the template that it was trained with"
        raise ModelError("the tokenizer has no chat template", where="tokenizer_config.json", cure=cure)
    specials = tokenizer.special_ids
    names = {token: content for content, token in specials.items()}
    found = {f"{name}_token": tokenizer.role(name) for name in TOKEN_ROLES}
    values = {name: names[token] for name, token in found.items() if token is not None}

    def with_contents(contents: list[str]) -> str:
        filled = [{"role": message["role"], "content": content} for message, content in zip(conversation, contents, strict=True)]
        return write(template, filled, where, add_generation_prompt=add_generation_prompt, **values)

    contents = [message["content"] for message in conversation]
    text = with_contents(contents)
    special = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or r"(?!)")
    spans = _marked(with_contents, contents, text)
    if spans is None:
        spans, places = _aligned(with_contents, contents, text, special, where), list(special.finditer(text))
    else:
        edges = [0, *(edge for span in spans for edge in (span.start, span.end)), len(text)]
        places = [place for start, end in list(pairwise(edges))[::2] for place in special.finditer(text, start, end)]
    answers = [span for span in spans if conversation[span.message]["role"] == "assistant"]
    learned = [(span.start, _closed(text, span, spans, places)) for span in answers]
    return _encoded(text, places, learned, tokenizer, specials)


def _marked(write: Write, contents: list[str], text: str) -> list[Span] | None:
    """Where the contents stand in a text, by writing marks around them; None if the template cuts or changes a content."""
    used = set(text).union(*contents)
    free = (mark for mark in map(chr, MARKS) if mark not in used)
    begin, end = next(free, ""), next(free, "")
    for parts in (contents, [content.strip() for content in contents]) if end else ():  # the second for templates that trim
        shown = [number for number, part in enumerate(parts) if part or parts is contents]
        marked = list(contents)
        for number in shown:
            before, part, after = contents[number].partition(parts[number]) if parts[number] else ("", "", "")
            marked[number] = f"{before}{begin}{part}{end}{after}"
        result = write(marked)
        found = list(re.finditer(f"{begin}([^{begin}{end}]*){end}", result))
        same = result.replace(begin, "").replace(end, "") == text and result.count(begin) == result.count(end) == len(found)
        if same and [place[1] for place in found] == [parts[number] for number in shown]:
            starts = [place.start() - 2 * index for index, place in enumerate(found)]
            return [Span(start, start + len(parts[number]), number) for start, number in zip(starts, shown, strict=True)]
    return None


def _aligned(write: Write, contents: list[str], text: str, special: re.Pattern[str], where: str) -> list[Span]:
    """Where the contents stand in a text whose template changes them: between the same special tokens as other contents would.

    Raises RequestError if the contents have changed the special tokens themselves.
    """
    plain = ["x" if content.strip() else "" for content in contents]
    pattern = write(plain)
    if special.findall(text) != special.findall(pattern):
        cure = "take special tokens, such as the one that ends a turn, out of the contents"
        raise RequestError("a content adds special tokens to what the chat template writes", where=where, cure=cure)
    known = _marked(write, plain, pattern) or []
    ours, theirs = (
        [0, *(edge for place in special.finditer(written) for edge in place.span()), len(written)] for written in (text, pattern)
    )
    gaps = [next(gap for gap in range(0, len(theirs), 2) if span.end <= theirs[gap + 1]) for span in known]
    spans: list[Span] = []
    for span, gap in zip(known, gaps, strict=True):
        (start, end), content = ours[gap : gap + 2], contents[span.message].strip()
        start = max([start, *(other.end for other in spans)])
        if (place := text.find(content, start, end)) >= 0:
            spans.append(Span(place, place + len(content), span.message))
        elif gaps.count(gap) == 1:
            before = commonprefix([text[start:end], pattern[theirs[gap] : span.start]])  # noqa: RUF071
            spans.append(Span(start + len(before), end, span.message))
    return spans


def _closed(text: str, span: Span, spans: list[Span], places: list[re.Match[str]]) -> int:
    """Where a turn ends: after the special token that follows its content, whitespace between them or not."""
    ahead = next((place for place in places if place.start() >= span.end), None)
    if (
        ahead is None
        or text[span.end : ahead.start()].strip()
        or any(span.end <= other.start < ahead.start() for other in spans if other != span)
    ):
        return span.end
    return ahead.end()


def _encoded(
    text: str, places: list[re.Match[str]], learned: list[tuple[int, int]], tokenizer: Tokenizer, specials: dict[str, int]
) -> Rendered:
    """Tokens of a text with special tokens at places; learned: from and to which characters."""
    edges = [0, *(edge for place in places for edge in place.span()), len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    ordinary = iter(tokenizer.encode_batch(parts[::2]))
    ids: list[int] = []
    flags: list[bool] = []
    for number, (part, start) in enumerate(zip(parts, edges, strict=False)):
        here = [(max(0, first - start), last - start) for first, last in learned if first < start + len(part) and last > start]
        tokens = [specials[part]] if number % 2 else next(ordinary).tolist()
        ids += tokens
        flags += [True] * len(tokens) if number % 2 and here else _overlapping(part, tokens, here, tokenizer)
    return Rendered(ids, flags, text)


def _overlapping(part: str, tokens: list[int], ranges: list[tuple[int, int]], tokenizer: Tokenizer) -> list[bool]:
    """For each token of a text whether any of its bytes lies in one of the ranges of characters."""
    if not ranges:
        return [False] * len(tokens)
    ends = [0, *accumulate(len(tokenizer.decode_bytes([token])) for token in tokens)]
    # Counted in tokens' bytes, not in the text's: a tokenizer may normalise.
    edges = {edge: len(tokenizer.decode_bytes(tokenizer.encode(part[:edge]))) for edge in {*chain(*ranges)} if edge < len(part)}
    within = [(edges.get(first, ends[-1]), edges.get(last, ends[-1])) for first, last in ranges]
    return [any(start < last and end > first for first, last in within) for start, end in pairwise(ends)]
