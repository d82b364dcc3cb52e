"""From a file's text to the text that people wrote in it: pages, Markdown, Python."""

import ast
import logging
import re
import warnings
from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

INLINE = {"softbreak": "\n", "hardbreak": "\n", "html_inline": ""}  # all else is its content, empty for marks
TAG = re.compile(r"<[^<>]*>")
FRONT_MATTER = re.compile(r"\A---\n(?:[\w-]+:.*\n|[ \t-].*\n)+?---\n")  # YAML; a rule followed by prose is left alone


def extract(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Replace a document's text by its readable part, as its `format` asks."""
    extractor = {"html": _from_html, "markdown": _from_markdown, "python": _from_python}.get(document.metadata["format"])
    return document if extractor is None else extractor(document, settings)


def _from_html(document: Document, _: CorpusSettings) -> Document | Dropped:
    """The main content of a page, without navigation, advertisements and comments. Source: Barbaresi 2021 (trafilatura)."""
    from lxml.etree import LxmlError
    from trafilatura import extract as main_content

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what fails is counted here, not logged there
    try:
        text = main_content(document.text, fast=True, include_comments=False)
    except (LxmlError, ValueError, RecursionError):
        return document.dropped("broken_html")
    return replace(document, text=text) if text else document.dropped("no_main_content")


def _from_python(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Python that parses: its source, or its docstrings alone."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(document.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return document.dropped("not_python")
    if settings.python == "source":
        return document
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, documented)), key=lambda node: getattr(node, "lineno", 0))
    docstrings = [text for node in nodes if (text := ast.get_docstring(node))]
    return replace(document, text="\n\n".join(docstrings)) if docstrings else document.dropped("no_docstring")


def _from_markdown(document: Document, _: CorpusSettings) -> Document:
    """Markdown as plain prose: no marks, links as their words, code as it is."""
    from markdown_it import MarkdownIt

    pieces: list[str] = []
    bullet, gap = "", "\n\n"
    for token in MarkdownIt("commonmark").parse(FRONT_MATTER.sub("", document.text)):
        text = ""
        match token.type:
            case "list_item_open":
                bullet = f"{token.info}{token.markup} " if token.info else "- "
            case "paragraph_open" if token.hidden:  # an item of a tight list
                gap = "\n"
            case "inline":
                text, bullet = bullet + "".join(INLINE.get(child.type, child.content) for child in token.children or []), ""
            case "fence" | "code_block":
                text = token.content.rstrip("\n")
            case "html_block":
                text = TAG.sub("", token.content).strip()
        if text:
            pieces += [gap, text]
            gap = "\n\n"
    return replace(document, text="".join(pieces[1:]))
