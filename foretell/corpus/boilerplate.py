"""What the publisher put around a text: Project Gutenberg's licence and the like, and the licence notices on top of source files.

Only what is marked goes: between known marks, or a paragraph that holds a known sentence.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

# Project Gutenberg. The three stars came in the nineties; before, the header ended with the end of the small print.
MARK = re.compile(
    r"^(?:(?P<start>\*+ ?START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,300}\*.*|\*END\*? ?THE SMALL PRINT!.*\*END\*.*)|"
    r"\*+ ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:The |This )?Project Gutenberg(?:'s|’s| e-?(?:text|book)))",
    re.IGNORECASE | re.MULTILINE,
)
LONGEST = 30_000  # characters of a header, and of a footer with the whole licence
GOOGLE = re.compile(
    r"This is a digital copy of a book that was preserved for generations(?:(?!This is a digital copy of a book)(?s:.)){0,9000}?"
    r"\bat https? ?: ?// ?books ?\. ?google ?\. ?com/?.*\n?"
)
SCANNER = re.compile(r"^[ \t]*Digitized by (?:Google|[VL]j?OOQ(?:IC|LE))[ \t]*\n", re.IGNORECASE | re.MULTILINE)
SENTENCES = re.compile(
    r"Digitized by the Internet Archive\s+in \d{4}|"
    r"hours of hard work by volunteers for\s+Standard Ebooks|Standard Ebooks is a volunteer-driven project|"
    r"Copyright pages exist to tell you|this ebook are believed to be in the\s+United States public domain|"
    r"Non-authorship activities performed on items that are in the public domain|This particular ebook is based on|"
    r"This e-?book comes from the online library Wikisource|Exported from Wikisource on|"
    r"This work is in the public domain in the\s+United States because it was published"
)
PUBLISHERS = ("Standard Ebooks", "Internet Archive", "Wikisource", "Copyright pages", "ublic domain", "This particular ebook")
NAME = re.compile("Project Gutenberg", re.IGNORECASE)
PARAGRAPH_END = re.compile(r"(\n[ \t]*\n\s*)")

COMMENT = re.compile(r"[ \t]*(?:#(?![!\[]|define|if|import|include|pragma|undef)|//|/\*|--|;|%|$)")
WORDLESS = re.compile(r"[\W_]*\Z")
HOLLOW = re.compile(r"/\*[\s*]*\*/\n?")
SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?: (?:AND|OR|WITH) [\w.+-]+)*)")
LICENCES = {  # the first that is found, in order
    "Apache-2.0": r"Licensed under the Apache License, Version 2\.0|Licensed to the Apache Software Foundation",
    "MPL-2.0": r"terms of the Mozilla Public License, v\. 2\.0",
    "AGPL-3.0-or-later": r"GNU Affero General Public License .* either version 3\b",
    "LGPL-2.1-or-later": r"GNU Lesser General Public License .* either version 2\.1\b",
    "LGPL-3.0-or-later": r"GNU Lesser General Public License .* either version 3\b",
    "GPL-2.0-or-later": r"GNU General Public License .* either version 2\b",
    "GPL-3.0-or-later": r"GNU General Public License .* either version 3\b",
    "GPL-2.0-only": r"GNU General Public License,? version 2|version 2 of the GNU General Public License",
    "BSL-1.0": r"Distributed under the Boost Software License, Version 1\.0",
    "MIT": r"Permission is hereby granted, free of charge|[Uu]nder the MIT [Ll]icense",
    "BSD-3-Clause": r"Redistributions of source code must retain .* Neither the name|BSD-style license that can be found",
    "BSD-2-Clause": r"Redistributions of source code must retain",
    "ISC": r"Permission to use, copy, modify, and/or distribute this software",
}
NOTICE = re.compile(  # in the first line of each paragraph of them
    r"\bCopyright\b|©|All rights reserved|Licen[sc]ed (?:to|under)|\bLicense\b|Permission (?:is hereby granted|to use, copy)|"
    r"Redistribution|Neither the name|SOFTWARE IS PROVIDED|free software[;:]|WITHOUT WARRANT|hope that it will be useful|"
    r"Unless required by applicable law|You should have received a copy|This Source Code Form is subject",
    re.IGNORECASE,
)
HEAD = 6000  # characters in which a source file names its licence: the longest notices have 3000


def strip(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Take out what is the publisher's; metadata: how many `boilerplate_bytes` that was, and a source file's `licence` (SPDX)."""
    if not settings.boilerplate:
        return document
    metadata = dict(document.metadata)
    if metadata.get("format") == "code":
        text, licence = _without_notice(document.text)
        if licence:
            metadata["licence"] = licence
    else:
        text = without_publisher(document.text)
    if text is document.text:
        return replace(document, metadata=metadata)
    if not text.strip():
        return document.dropped("empty")
    shorter = replace(document, text=text, metadata=metadata)
    metadata["boilerplate_bytes"] = document.bytes - shorter.bytes
    return shorter


def without_publisher(text: str) -> str:
    """A book or article without the notices of those who put it on the net; the same object where there are none."""
    stripped = text
    if "utenberg" in text or "UTENBERG" in text:
        stripped = _without_gutenberg(stripped)
    if "digital copy of a book" in text:
        stripped = GOOGLE.sub("", stripped)
    if "igitized by" in text:
        stripped = SCANNER.sub("", stripped)
    if any(word in text for word in PUBLISHERS) and SENTENCES.search(stripped):
        pieces = [*PARAGRAPH_END.split(stripped), ""]
        kept = [piece + gap for piece, gap in zip(pieces[::2], pieces[1::2], strict=True) if not SENTENCES.search(piece)]
        stripped = "".join(kept)
    return text if len(stripped) == len(text) else stripped.strip("\n") + "\n"


def _without_gutenberg(text: str) -> str:
    """What stands between the marks, of all books in it. A header begins with the first line that speaks of Project Gutenberg."""
    kept, position, ended = list[str](), 0, False
    for mark in MARK.finditer(text):
        if not mark["start"]:
            kept += [] if ended else [text[position : mark.start()]]
            position, ended = mark.start(), True
            continue
        named = NAME.search(text, max(position, mark.start() - LONGEST), mark.end())
        begin = max(position, text.rfind("\n", 0, named.start()) + 1 if named else mark.start())
        kept += [] if ended and begin - position < LONGEST else [text[position:begin]]
        position, ended = mark.end(), False
    rest = text[position:]
    return "".join([*kept, *([] if ended and len(rest) < LONGEST else [rest])])


def _without_notice(code: str) -> tuple[str, str | None]:
    """Source code without the licence notice in its first comment, where that is a very common one, and the licence's SPDX name.

    A paragraph of the comment goes when it holds words of such notices; all others stay, and so do lines that name an SPDX licence.
    """
    lines = code[:HEAD].split("\n")
    start = 1 if lines[0].startswith("#!") else 0
    end = _end_of_comment(lines, start)
    stated = SPDX.search("\n".join(lines[:end]))
    words = re.sub(r"[\s*#/;%-]+", " ", "\n".join(lines[start:end]))
    known = next((name for name, pattern in LICENCES.items() if re.search(pattern, words)), None)
    licence = stated[1] if stated else known
    if not known or end == len(lines):
        return code, licence
    kept = HOLLOW.sub("", "\n".join([*_other_lines(lines[start:end]), ""]))
    kept = "" if WORDLESS.match(kept) else kept
    return "\n".join([*lines[:start], kept + "\n".join(lines[end:])]) + code[HEAD:], licence


def _end_of_comment(lines: list[str], start: int) -> int:
    """The number of the first line that is neither empty nor comment."""
    inside = False  # of /* */
    for number in range(start, len(lines)):
        line = lines[number]
        if not inside and not COMMENT.match(line):
            return number
        opened, closed = line.rfind("/*"), line.rfind("*/")
        inside = opened > closed or (inside and closed < 0)
    return len(lines)


def _other_lines(comment: list[str]) -> Iterator[str]:
    """The lines of a comment without a notice's: those from its mark on, in each of its paragraphs. SPDX lines stay."""
    notice = went = False  # whether this line is part of one; whether the last line with words was
    for line in comment:
        words = not WORDLESS.match(line)
        notice = words and (notice or bool(NOTICE.search(" ".join(line.split())))) and not SPDX.search(line)
        went = notice or (went and not words)
        if not went:
            yield line
        elif ("/*" in line) != ("*/" in line):
            yield "/*" if "/*" in line else " */"
