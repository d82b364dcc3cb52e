"""From the records of containers to documents: every kind's text, decoded, mended and told what it is."""

import json
import math
from typing import Any

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, Raw, document_id, excerpt
from foretell.corpus.encoding import HEAD_BYTES, decode, repair
from foretell.corpus.papers import Refused, declared_encoding, read_paper
from foretell.corpus.readers.entry import TEXT_FIELDS

PAPERS = frozenset({"pdf", "docx", "epub", "email", "xml"})
LARGEST_EXACT = 2.0**63  # a JSON number from here on may have been a whole number, which orjson rounds


def convert(raw: Raw, settings: CorpusSettings) -> Document | Dropped:
    """The document that a record holds, or why it holds none.

    metadata: `format`, what the container knew, and where it applies `line`, `text_field`, `fields`, `encoding` (when not UTF-8),
    `repaired`, `replaced_characters` (U+FFFD in the text), `pages_left_out`, `attachments`.
    """
    content = raw.content if isinstance(raw.content, bytes) else raw.content.encode("utf-8", "surrogatepass")
    try:
        text, found = _read(raw, content, settings)
    except Refused as refused:
        return raw.dropped(refused.reason, excerpt(refused.excerpt))
    if not text or text.isspace():
        return raw.dropped("empty")
    fields = raw.metadata.get("fields", {}) | found.pop("fields", {})
    metadata = {"format": raw.format, **raw.metadata, **found} | ({"fields": fields} if fields else {})
    if settings.repair and (mended := repair(text)) != text:
        text, metadata["repaired"] = mended, True
    if replaced := text.count("\ufffd"):
        metadata["replaced_characters"] = replaced
    document = Document(document_id(raw.name, raw.number, content), text, raw.source, metadata)
    return document.dropped("not_utf8") if replaced > settings.max_undecodable * len(text) else document


def _read(raw: Raw, content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """The text of a record, and what was learnt on the way."""
    if raw.format == "json":
        return _read_json(raw, content, settings)
    if raw.format in PAPERS:
        return read_paper(content, raw.format, settings)
    if isinstance(raw.content, str):
        return _whole_characters(raw.content), {}
    declared = raw.metadata.get("charset") or (declared_encoding(content) if raw.format == "html" else None)
    text, encoding = decode(content, declared, settings)
    if "\0" in text:
        raise Refused("binary")
    return text, {} if encoding == "utf-8" else {"encoding": encoding}


def _read_json(raw: Raw, content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    record, encoding = _parse(content, settings)
    fields = record if isinstance(record, dict) else {}
    wanted = (settings.text_field, *TEXT_FIELDS)
    name = next((name for name in wanted if isinstance(fields.get(name), str)), None)
    if name is None:
        raise Refused(
            "no_text_field", f"fields: {', '.join(fields)}" if fields else content[:HEAD_BYTES].decode("utf-8", "replace")
        )
    text, found = fields.pop(name), {"line": raw.number, "text_field": name, "fields": fields}
    return text, found if encoding == "utf-8" else found | {"encoding": encoding}


def _parse(content: bytes, settings: CorpusSettings) -> tuple[Any, str]:
    """What a line of JSON says, and its encoding: quickly, or where that is too strict or rounds, slowly."""
    import orjson

    try:
        record = orjson.loads(content) if settings.encoding is None else None
        numbers = [value for value in record.values() if type(value) is float] if isinstance(record, dict) else ()
        if record is not None and max(map(abs, numbers), default=0) < LARGEST_EXACT:
            return record, "utf-8"
    except ValueError:
        pass
    told, encoding = decode(content, None, settings)
    try:
        record = json.loads(told, parse_constant=_finite, parse_float=_finite)
        return json.loads(_whole_characters(json.dumps(record, ensure_ascii=False))), encoding
    except (ValueError, RecursionError) as error:
        raise Refused("broken_json", told[:HEAD_BYTES]) from error


def _finite(text: str) -> float | None:
    """NaN and infinities, which JSON does not have, are absent numbers."""
    return number if math.isfinite(number := float(text)) else None


def _whole_characters(text: str) -> str:
    """Text without halves of characters, which escapes can make: U+FFFD stands for them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
