"""What publishers put around a text goes, and nothing else."""

import time

import pytest

from foretell.corpus.boilerplate import strip, without_publisher
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

BOOK = "CHAPTER I\n\nThe harbour was dark.\n\n*** \n\nShe read of Project Gutenberg in the paper.\n\nTHE END"
LICENCE = "Most people start at our Web site. " * 500  # 17,500 characters
PRINT = "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n"
HEADERS = {
    "new": "The Project Gutenberg eBook of Harbour\n\nThis ebook is for the use of anyone.\n\nTitle: Harbour\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK HARBOUR ***\n",
    "two lines": "Project Gutenberg's Harbour\n\n***START OF THIS PROJECT GUTENBERG EBOOK HARBOUR, OR THE\nDARK BOATS***\n",
    "small print": "**The Project Gutenberg Etext of Harbour**\n#3 in our series\n\n"
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this Small Print statement here?\n" + PRINT,
}
STARS = f"*** END OF THE PROJECT GUTENBERG EBOOK HARBOUR ***\n\n{LICENCE}"
FOOTERS = {
    "stars": STARS,
    "both": f"End of the Project Gutenberg EBook of Harbour, by A. Nobody\n\n{STARS}",
    "etext": "End of Project Gutenberg's Etext of Harbour\n",
    "small print below": f"End of The Project Gutenberg Etext of Harbour\n{LICENCE}\n{PRINT}",
    "none": "",
}


def stripped(text: str, kind: str = "text", settings: CorpusSettings | None = None) -> Document:
    document = strip(Document("id", text, "source", {"format": kind}), settings or CorpusSettings())
    assert isinstance(document, Document)
    return document


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("footer", FOOTERS)
def test_a_book_of_project_gutenberg(header: str, footer: str) -> None:
    text = f"{HEADERS[header]}\n\n{BOOK}\n\n{FOOTERS[footer]}"
    document = stripped(text)
    assert document.text == BOOK + "\n"
    assert document.metadata["boilerplate_bytes"] == len(text) - len(BOOK) - 1


def test_several_books_in_a_file_and_what_stands_before_them() -> None:
    one = f"{HEADERS['new']}{BOOK}\n{FOOTERS['both']}\n"
    text = without_publisher("My preface.\n" + one + f"{HEADERS['small print']}{BOOK}\n{FOOTERS['stars']}")
    assert text == f"My preface.\n\n{BOOK}\n\n{BOOK}\n"


def test_a_mark_before_a_long_text_is_no_footer() -> None:
    text = f"{BOOK}\n*** END OF THE PROJECT GUTENBERG EBOOK HARBOUR ***\n" + "Another tale begins here. " * 2000
    assert without_publisher(text) is text


@pytest.mark.parametrize(
    "notice",
    [
        "This ebook is the product of many hours of hard work by volunteers for Standard Ebooks, and builds on others.",
        "Digitized by the Internet Archive\nin 2007 with funding from\nMicrosoft Corporation\nhttp://www.archive.org/details/harbour",
        "This e-book comes from the online library Wikisource. It is a multilingual library.",
        "This is a digital copy of a book that was preserved for generations on library shelves.\n\nWe ask you not to.\n\n"
        "You can search the full text of this book on the web at http : //books . google . com/",
    ],
)
def test_a_notice_goes_with_its_paragraph(notice: str) -> None:
    assert without_publisher(f"{notice}\n\nThe harbour was dark.\n\nNobody spoke.\n") == "The harbour was dark.\n\nNobody spoke.\n"
    assert without_publisher(f"The harbour was dark.\n\n{notice}\n") == "The harbour was dark.\n"


def test_a_notice_that_begins_again_and_again_is_looked_for_once() -> None:
    text = "This is a digital copy of a book that was preserved for generations on library shelves. " * 50_000
    started_at_seconds = time.process_time()
    assert without_publisher(text) is text
    assert time.process_time() - started_at_seconds < 5  # 20 without, 0.1 with


def test_the_scanners_mark_on_each_page_goes() -> None:
    assert (
        without_publisher("One page.\nDigitized by VjOOQIC\nNext page, digitized by Google.\n")
        == "One page.\nNext page, digitized by Google.\n"
    )


@pytest.mark.parametrize(
    "text",
    ["", BOOK, "Wikisource and the Internet Archive hold public domain books; Google scans them.\n", "Project Gutenberg\n" * 50],
)
def test_a_text_without_marks_is_the_same_object(text: str) -> None:
    assert without_publisher(text) is text


def test_a_text_of_nothing_else_is_dropped_and_the_setting_is_obeyed() -> None:
    text = HEADERS["new"] + FOOTERS["stars"]
    item = strip(Document("id", text, "source", {"format": "text"}), CorpusSettings())
    assert isinstance(item, Dropped) and item.reason == "empty"
    assert stripped(text, settings=CorpusSettings(boilerplate=False)).text == text
    assert stripped(text, "code").text == text  # a program that looks for the marks


APACHE = """# Copyright 2024 A. Nobody
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS.
"""
MIT = """/*
 * boats.c - counts boats
 *
 * Copyright (c) 2020 A. Nobody
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy
 * of this software, to deal in it.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND,
 * EXPRESS OR IMPLIED.
 */
#include <stdio.h>
"""
GPL = """/* This program is free software; you can redistribute it and/or modify
   it under the terms of the GNU General Public License as published by
   the Free Software Foundation; either version 2 of the License, or
   (at your option) any later version.  */

int boats;
"""


@pytest.mark.parametrize(
    ("code", "rest", "licence"),
    [
        ("#!/bin/sh\n" + APACHE + "\nls\n", "#!/bin/sh\nls\n", "Apache-2.0"),
        (
            APACHE + "# SPDX-License-Identifier: Apache-2.0\n\nx = 1\n",
            "# SPDX-License-Identifier: Apache-2.0\n\nx = 1\n",
            "Apache-2.0",
        ),
        (MIT, "/*\n * boats.c - counts boats\n *\n */\n#include <stdio.h>\n", "MIT"),
        (GPL, "int boats;\n", "GPL-2.0-or-later"),
        ("/* Boats. */\n/* Permission  is hereby granted, free of charge. */\nint boats;\n", "/* Boats. */\nint boats;\n", "MIT"),
        ("// SPDX-License-Identifier: MIT OR Apache-2.0\nfn main() {}\n", None, "MIT OR Apache-2.0"),
        ("# A copyright notice is printed by --version.\nprint(1)\n", None, None),
        ('TEXT = """\n' + APACHE + '"""\n', None, None),
        ("", None, None),
    ],
)
def test_licence_notices_of_source_files(code: str, rest: str | None, licence: str | None) -> None:
    document = stripped(code, "code")
    assert document.text == (code if rest is None else rest)
    assert document.metadata.get("licence") == licence
    assert ("boilerplate_bytes" in document.metadata) == (rest is not None)
