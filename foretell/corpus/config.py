"""The settings of corpus preparation: what is read, how it is cleaned, what is left out."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from foretell.base.settings import Settings

Extractor = Literal["auto", "quality", "fast"]
Rules = Literal["lenient", "gopher", "gopher-repetition", "c4", "fineweb"]
Private = Literal["email", "phone", "ip", "iban", "card"]


class CorpusSettings(Settings):
    """Section `[corpus]`. The defaults are lenient: they take out what is not language and keep code, verse and short pages."""

    # reading
    text_field: str | None = None
    """The field or column that holds the text; where there is none so called, the first of text, content, body, document, article,
    passage, sentence."""
    sql: str | None = None
    """The query that gives an SQLite file's documents; absent = every table that has a text column, in order of its rows."""
    fetch: bool = False
    """Fetch the addresses of `.urls` files (one a line); their robots.txt is obeyed, one request a second and host."""
    encoding: str | None = None
    """How bytes are read; absent = a byte order mark, UTF-8, what a page declares, else what they look like: recorded."""
    repair: bool = True
    """Mend text that was decoded wrongly before it came here (`â€™` for ’), where it shows the signs of it. Source: ftfy."""
    max_document_bytes: int = Field(default=4 * 2**20, ge=1024)
    """A larger text is cut at blank lines (else line ends) into parts of at most this; a larger page or single line is dropped."""
    max_undecodable: float = Field(default=0.01, ge=0, le=1)
    """Bytes that cannot be decoded become U+FFFD and are counted; above this share of the characters the text is dropped."""
    max_expansion: float = Field(default=200.0, gt=1)
    """A compressed file or member that expands to more than this many times its size, and 16 MiB, is a bomb and left out."""
    max_bad: int = Field(default=0, ge=0)
    """So many files may be unreadable before the build ends with exit code 1; the rest is read in any case."""
    # extraction
    extractor: Extractor = "auto"
    """Main content of pages. quality: trafilatura; fast: resiliparse, nine times as fast; auto: quality where fast is doubtful."""
    page_seconds: float = Field(default=2.0, gt=0)
    """A page that takes longer is cut off and counted."""
    boilerplate: bool = True
    """Take out licence headers and footers that are the publisher's, not the author's (Project Gutenberg's and the like)."""
    # language
    identify_languages: bool = True
    """Record each document's language; without it a build of text is about a third faster."""
    languages: tuple[str, ...] = ()
    """Keep these languages alone (ISO 639-1: en, de, …); empty = all, and each document's is recorded."""
    min_language_probability: float = Field(default=0.65, ge=0, le=1)
    """How sure that must be. FineWeb's value."""
    # quality
    rules: tuple[Rules, ...] = ("lenient",)
    """Which rules judge a document, in order. lenient: the six settings below; gopher, gopher-repetition: Rae et al. 2021, A1.1;
    c4: Raffel et al. 2020, 2.2; fineweb: Penedo et al. 2024, 3.6. Those four are for English web pages and drop code and verse."""
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
    bad_words: Path | None = None
    """A file of words or phrases, one a line; a document that holds one of them is dropped."""
    redact: tuple[Private, ...] = ()
    """Personal data replaced by a word of its kind (`<|email|>`); cards and IBANs only where their check digits are right."""
    reference: Path | None = None
    """Text as it should be (a file or corpus folder): a small n-gram model of it measures how surprising each document is."""
    max_surprise: float = Field(default=8.0, gt=0)
    """With `reference`: documents that take more bits a byte than this under that model are dropped."""
    # repetition between documents
    near_duplicates: bool = True
    """Of documents that share most of their word sequences only the first stays (MinHash; Broder 1997)."""
    shingle_words: int = Field(default=5, ge=1, le=32)
    """Words of a sequence that is compared."""
    bands: int = Field(default=14, ge=1, le=64)
    """Bands of MinHash values; documents that agree in all rows of one are near duplicates: 1 - (1 - similarity^rows)^bands."""
    rows: int = Field(default=8, ge=1, le=32)
    """Values in a band. 14 bands of 8, FineWeb's, find 92 % of pairs at 0.8, 56 % at 0.7, 5 % at 0.5."""
    min_similarity: float = Field(default=0.55, ge=0, le=1)
    """Of documents that agree in a band, those are copies that have this share of their word sequences in common (Jaccard, as all
    MinHash values estimate it: ± 0.05); 0 = agreeing in a band is enough, as elsewhere."""
    duplicate_lines: Literal["keep", "line", "paragraph"] = "keep"
    """Take out lines, or paragraphs, that stood in an earlier document, from `min_line_characters` on."""
    min_line_characters: int = Field(default=40, ge=1)
    """Shorter lines and paragraphs may return."""
    substring_bytes: int | None = Field(default=None, ge=16)
    """Take out later copies of any sequence of at least so many bytes (Lee et al. 2022 use 50 tokens: about 200); absent = none."""
    # evaluation sets, order, means
    decontaminate: tuple[Path, ...] = ()
    """Evaluation texts (files or folders): documents that share `contamination_words` words in a row with one are dropped."""
    contamination_words: int = Field(default=13, ge=2, le=64)
    """Source: Brown et al. 2020, appendix C."""
    shuffle: int | None = Field(default=None, ge=0)
    """Order the documents by this key's hash of their ids; absent = as the sources lie. Memory: a two-hundredth of the text."""
    memory_bytes: int = Field(default=4 * 2**30, ge=2**28)
    """What the build may hold in memory, all workers together; fewer workers run where it would not suffice."""

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        if self.languages and not self.identify_languages:
            raise ValueError("corpus.languages needs languages to be identified | leave out corpus.identify_languages=false")
        return self

    @field_validator("languages", "rules", "redact", "decontaminate", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """`corpus.rules=gopher,c4` is as good as a list."""
        return tuple(value.split(",")) if isinstance(value, str) else value
