"""From a file's text to the text that people wrote in it: pages and Markdown. All other formats are that text already.

Two engines read pages. `fast` (resiliparse) reads a hundred megabytes a second and leaves a little of the furniture in; `quality`
(trafilatura) takes eight times as long. `auto` gives the second only those pages whose fast reading looks like furniture.
"""

import logging
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

INLINE = {"softbreak": "\n", "hardbreak": "\n", "html_inline": ""}  # all else is its content, empty for marks
WORD = re.compile(r"\w")
TAG = re.compile(r"<[^<>]*>")
FRONT_MATTER = re.compile(r"\A---\n(?:(?:\w[\w-]*:|[ \t-]).*\n)+?---\n")  # YAML; a rule followed by prose is left alone

# Elements named so hold no article text. WordPress names posts, and the page, after what is in them: those stay.
FURNITURE = [f"[class*={name}]:not(body, article, main, [class*=post])" for name in ("caption", "cookie", "gallery", "newsletter")]
FURNITURE_SHARE = 0.7  # of lines that are short or said before, from which on a page is doubtful; articles have 0.2
TEXT_SHARE = 0.1  # of a page that is text, from which on it is not; news pages have 0.03, manuals, short-lined as they are, 0.17
SHORT_LINE, SHORT_TEXT, SHORT_PARAGRAPH = 60, 200, 80  # characters
ENDS = re.compile(r"[^\w\s]\W*\Z")  # a sentence, a quotation, a list's introduction: any mark
BLOCK = re.compile(  # what takes resiliparse the square of its depth
    r"<(/?)(address|article|aside|blockquote|center|details|dialog|dir|div|dl|fieldset|fig|foot|form|head|hgroup|listing|main|menu|nav|"
    r"ol|optgroup|pre|r[bpt]|search|section|summary|ul)",
    re.IGNORECASE,
)
OTHER = re.compile(  # the square too where blocks are inside; not those that end themselves or are always empty
    r"<(/?)(?!(?:p|t[dhr]|tbody|area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)([a-z]\w*)", re.IGNORECASE
)
STYLED = re.compile(r"<(?:b|big|code|em|font|i|s|small|strike|strong|tt|u)[\s/][^>]*", re.IGNORECASE)
STYLE = re.compile(r"<(/?)(b|big|code|em|font|i|s|small|strike|strong|tt|u)\b", re.IGNORECASE)
LONG = 50_000  # characters
LONG_TAG = re.compile(rf"<[a-z][^<>]{{{2 * LONG},}}", re.IGNORECASE)
DEPTH, ATTRIBUTES = 4000, 20_000  # these take the parsers half a second; twice as many, four times as long. Real pages: 100 and 50
OTHER_DEPTH = 20_000  # takes a second; lists of old pages have many without ends, but they do not nest
COPIES = (
    2_000_000  # elements, three seconds: HTML opens each style that was left open (thrice at most if alike) again in each block
)
AGAIN_SECONDS = 0.05
UNTIMED_SPEED = 400_000  # characters a second: the slowest that trafilatura was seen at


def extract(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Replace a document's text by its readable part, as its `format` asks; `metadata["extractor"]` says how a page was read."""
    match document.metadata["format"]:
        case "html":
            text, how = _read_page(document.text, settings)
            if text is None:
                return document.dropped(how)
            return replace(document, text=text, metadata={**document.metadata, "extractor": how})
        case "markdown":
            return replace(document, text=_from_markdown(document.text))
    return document


def main_text(html: str, settings: CorpusSettings) -> str | None:
    """The main content of a page, without navigation, advertisements and comments; None where none is found, or not in time."""
    return _read_page(html, settings)[0]


def _read_page(html: str, settings: CorpusSettings) -> tuple[str | None, str]:
    """Text and the engine that found it, or None and the reason."""
    if _hopeless(html):
        return None, "page_too_slow"
    text = None
    if settings.extractor != "quality":
        text = _fast(html)
        if settings.extractor == "fast" or not _doubtful(text, len(html)):
            return (text, "fast") if text else (None, "no_main_content")
    better, reason = _quality(html, settings.page_seconds)
    if better:
        return better, "quality"
    return (text, "fast") if text else (None, reason)


def _fast(html: str) -> str:
    """Source: Bevendorff et al. 2018 (resiliparse); its options are those of DCLM, and without dates and authors."""
    from resiliparse.extract.html2text import extract_plain_text

    try:
        text = extract_plain_text(
            html,
            preserve_formatting=True,
            main_content=True,
            alt_texts=False,
            comments=False,
            post_meta=False,
            skip_elements=FURNITURE,
        )
    except (TypeError, ValueError, RuntimeError):  # TypeError: a lone surrogate in it
        return ""
    return _without_tail(text.strip()) if WORD.search(text) else ""


def _without_tail(text: str) -> str:
    """Without the links and headlines after an article: short paragraphs of a line each that end without any mark.

    Where they are more than a quarter of the text, they are the text (a list, verse) and stay.
    """
    lines = text.split("\n")
    last = len(lines)
    while last > 1 and (not (line := lines[last - 1].strip()) or _is_furniture(line, lines[last - 2])):
        last -= 1
    kept = "\n".join(lines[:last]).rstrip()
    return kept if len(kept) >= 0.75 * len(text) else text


def _is_furniture(line: str, above: str) -> bool:
    return len(line) < SHORT_PARAGRAPH and not above.strip() and not ENDS.search(line)


def _doubtful(text: str, page_length: int) -> bool:
    """Whether a fast reading should be done again: next to nothing, or a small part of the page, of short and repeated lines."""
    if len(text) < SHORT_TEXT:
        return True
    if len(text) > TEXT_SHARE * page_length:
        return False
    lines = [line for raw in text.split("\n") if (line := raw.strip())]
    furniture = sum(len(line) < SHORT_LINE for line in lines) + len(lines) - len(set(lines))
    return furniture > FURNITURE_SHARE * len(lines)


def _quality(html: str, seconds: float) -> tuple[str | None, str]:
    """Text, or None, and the reason for that. Source: Barbaresi 2021 (trafilatura)."""
    from lxml.etree import LxmlError
    from trafilatura import extract as main_content

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what fails is counted here, not logged there
    if "<html" not in html[:2000].lower():
        html = f"<html><body>{html}</body></html>"  # trafilatura takes no fragments
    try:
        with _time_limit(seconds, len(html)):
            return main_content(html, fast=True, include_comments=False), "no_main_content"
    except _TooSlow:
        return None, "page_too_slow"
    except (LxmlError, ValueError, RecursionError):
        return None, "broken_html"


class _TooSlow(BaseException):
    """Not an Exception: trafilatura catches those."""


@contextmanager
def _time_limit(seconds: float, characters: int) -> Iterator[None]:
    """Stop the body when it has computed for so long. Processor time: a page's fate must not hang on what else the machine does.

    Only a main thread can be stopped, and only between two steps of Python: what the parsers do in one is bounded by `_hopeless`
    and by the size of pages. In other threads a page that could take longer is not begun.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        if characters > seconds * UNTIMED_SPEED:
            raise _TooSlow
        yield
        return

    running = True

    def stop(_number: int, _frame: FrameType | None) -> None:
        if running:
            raise _TooSlow

    timer_before = signal.getitimer(signal.ITIMER_VIRTUAL)
    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        # 0 would be no limit; again and again, as Python swallows what is raised inside a `__del__`
        signal.setitimer(signal.ITIMER_VIRTUAL, max(seconds, 0.001), AGAIN_SECONDS)
        yield
    finally:
        running = False  # first: nothing may interrupt the rest
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer_before)
        signal.signal(signal.SIGVTALRM, before)


def _hopeless(html: str) -> bool:
    """Whether a page is nested so deep, or a tag of it is so full, that parsing would take the square of the size, in one step."""
    tags = html.count("<")
    if tags > 2 * DEPTH and _most_open(BLOCK, html) > DEPTH:
        return True
    if tags > OTHER_DEPTH and _most_open(OTHER, html) > OTHER_DEPTH:
        return True
    styles = set(STYLED.findall(html)) if tags * tags > COPIES else ()
    if 3 * len(styles) * tags > COPIES and min(_most_open(STYLE, html), 3 * len(styles)) * tags > COPIES:
        return True
    if all(html.find(">", start, start + LONG) >= 0 for start in range(0, len(html) - LONG, LONG)):
        return False
    return any(len(tag[0].split()) > ATTRIBUTES for tag in LONG_TAG.finditer(html))


def _most_open(tags: re.Pattern[str], html: str) -> int:
    """How many elements of a pattern are open at once. An end ends only its own name: parsers pass over all others."""
    opened, now, most = Counter[str](), 0, 0
    for end, tag in tags.findall(html):
        name = tag.lower()
        if not end:
            opened[name] += 1
            now += 1
            most = max(most, now)
        elif opened[name]:
            opened[name] -= 1
            now -= 1
    return most


def _from_markdown(text: str) -> str:
    """Plain prose: no marks, links as their words, code as it is."""
    from markdown_it import MarkdownIt

    pieces: list[str] = []
    bullet, gap = "", "\n\n"
    for token in MarkdownIt("commonmark").parse(FRONT_MATTER.sub("", text)):
        piece = ""
        match token.type:
            case "list_item_open":
                bullet = f"{token.info}{token.markup} " if token.info else "- "
            case "paragraph_open" if token.hidden:  # an item of a tight list
                gap = "\n"
            case "inline":
                piece, bullet = bullet + "".join(INLINE.get(child.type, child.content) for child in token.children or []), ""
            case "fence" | "code_block":
                piece = token.content.rstrip("\n")
            case "html_block":
                piece = TAG.sub("", token.content).strip()
        if piece:
            pieces += [gap, piece]
            gap = "\n\n"
    return "".join(pieces[1:])
