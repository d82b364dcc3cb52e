"""The settings of corpus preparation: what is read, how it is cleaned, what is left out."""

from pydantic import Field

from foretell.base.settings import Settings


class CorpusSettings(Settings):
    """Section `[corpus]`. The defaults are lenient: they take out what is not language and keep code, verse and short pages."""

    jsonl_text_field: str | None = None
    """The field that holds a JSONL line's text; absent = the first of text, content, body, document, article, passage, sentence."""
    max_document_bytes: int = Field(default=4 * 2**20, ge=1024)
    """A larger text is cut at blank lines (else line ends) into parts of at most this; a larger page or single line is dropped."""
    max_undecodable: float = Field(default=0.01, ge=0, le=1)
    """Bytes that are not UTF-8 become U+FFFD and are counted; above this share of the characters the text is dropped."""
    min_characters: int = Field(default=20, ge=0)
    """Shorter documents are dropped."""
    max_line_characters: int = Field(default=200_000, ge=1)
    """A document with a longer line is dropped."""
    min_alphanumeric: float = Field(default=0.25, ge=0, le=1)
    """Smallest share of letters and digits among the visible characters. Prose has 0.9 or more, code 0.65 or more."""
    max_word_length: float = Field(default=25.0, gt=0)
    """Largest mean length of ASCII words. Natural languages lie below 10, base64 and hexadecimal dumps above 30."""
    max_repeated_lines: float = Field(default=0.7, ge=0, le=1)
    """Largest share of the characters that may stand in repetitions of earlier lines. Plays have 0.06, code up to 0.3."""
    max_compression: float = Field(default=15.0, gt=1)
    """Largest ratio of a text to its zlib form. Prose lies at 2 to 3, code below 5."""
    near_duplicate_threshold: float = Field(default=0.8, gt=0, le=1)
    """Estimated share of common five-word sequences (Jaccard) from which the later document is dropped; 1 = equal words only."""
