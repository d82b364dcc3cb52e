"""From a file's text to the text that people wrote in it: pages and Markdown. All other formats are that text already."""

import logging
import re
from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

INLINE = {"softbreak": "\n", "hardbreak": "\n", "html_inline": ""}  # all else is its content, empty for marks
TAG = re.compile(r"<[^<>]*>")
FRONT_MATTER = re.compile(r"\A---\n(?:[\w-]+:.*\n|[ \t-].*\n)+?---\n")  # YAML; a rule followed by prose is left alone


def extract(document: Document, _: CorpusSettings) -> Document | Dropped:
    """Replace a document's text by its readable part, as its `format` asks."""
    match document.metadata["format"]:
        case "html":
            return _from_html(document)
        case "markdown":
            return replace(document, text=_from_markdown(document.text))
    return document


def _from_html(document: Document) -> Document | Dropped:
    """The main content of a page, without navigation, advertisements and comments. Source: Barbaresi 2021 (trafilatura)."""
    from lxml.etree import LxmlError
    from trafilatura import extract as main_content

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what fails is counted here, not logged there
    try:
        text = main_content(document.text, fast=True, include_comments=False)
    except (LxmlError, ValueError, RecursionError):
        return document.dropped("broken_html")
    return replace(document, text=text) if text else document.dropped("no_main_content")


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
