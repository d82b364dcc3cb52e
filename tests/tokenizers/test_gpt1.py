import json
import re
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from foretell.base.errors import ModelError
from foretell.tokenizers.published import gpt1_from_openai
from foretell.tokenizers.tokenizer import StreamDecoder, Tokenizer

UGLY = [
    *(
        "",
        "   ",
        "\n",
        "中文字 and 漢字",
        "naïve café ÀÉ",
        "e\u0301a\u0300",
        "a\x00b\x07c\u200bd\u200d\ufeff",
        "👩‍👩‍👧 😀",
        "x" * 300,
    ),
    *(
        "ſ ﬁ İ ΑΣ",
        "don't can't [SEP] <unk> </w> <|endoftext|>",
        "\u2028\u2029\x85\xa0",
        "\ufffd",
        "１２３ ²",
        "नमस्ते ไทย",
        "a\tb\r\nc",
    ),
]
Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def lines(data_folder: Path) -> list[str]:
    books = sorted((data_folder / "books").glob("*.md"))
    return [line for book in books[:4] for line in book.read_text().split("\n") if line][:600]


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    return data_folder / "tokenizers"


@pytest.fixture(scope="module")
def gpt1(folder: Path) -> Tokenizer:
    pytest.importorskip("ftfy")
    pytest.importorskip("spacy")
    return gpt1_from_openai(folder / "gpt1", faithful=True)


def merges(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split(" ")) for line in path.read_text().split("\n")[1:-1]]


def test_gpt1s_vocabulary_adds_up(gpt1: Tokenizer) -> None:
    contents = [str(gpt1._inner.id_to_token(token)) for token in range(gpt1.vocab_size)]
    letters, ends, joined = contents[1:239], contents[239:477], contents[477:40477]
    assert (contents[0], contents[40477]) == ("<unk>", "\n</w>")
    assert all(len(text) == 1 for text in letters)
    assert sorted(text.removesuffix("</w>") for text in ends) == sorted(letters)
    assert len(joined) == 40_000 and all(len(text.removesuffix("</w>")) > 1 for text in joined)


def openai(folder: Path) -> Encode:
    """What OpenAI's code does, in its own plain and slow way: an independent witness."""
    import ftfy
    import spacy

    vocabulary = json.loads((folder / "encoder_bpe_40000.json").read_text())
    rank = {pair: place for place, pair in enumerate(merges(folder / "vocab_40000.bpe"))}
    split = spacy.blank("en").tokenizer

    @cache
    def pairs_joined(word: str) -> list[int]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while pairs := [pair for pair in pairwise(parts) if pair in rank]:
            best, joined = min(pairs, key=rank.__getitem__), []
            while parts:
                joined.append("".join(parts[:2]) if tuple(parts[:2]) == best else parts[0])
                parts = parts[2 if tuple(parts[:2]) == best else 1 :]
            parts = joined
        return [vocabulary.get(part, 0) for part in (["\n</w>"] if parts == ["\n", " </w>"] else parts)]

    def encode(text: str) -> list[int]:
        text = ftfy.fix_text(text)
        for sign, plain in {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"}.items():
            text = text.replace(sign, plain)
        for sign in '-~!";?+,)(\\/*[]}{|_':
            text = re.sub(f"{re.escape(sign)}+", r" \g<0> ", text)
        text = re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", " \n ", text)).strip()
        return [token for word in split(text) for token in pairs_joined(word.text.lower())]

    return encode


def test_gpt1s_faithful_ids_are_openais(gpt1: Tokenizer, folder: Path, lines: list[str]) -> None:
    texts = ["\n".join(lines[first : first + 10]) for first in range(0, 600, 10)]
    texts += [*UGLY, "\n\n a  b\n\n\nc ", "<b>x &amp; y\n&lt;", "…´—–―", "--a", "schön â€œquotedâ€\x9d", " \n ", "a \n", "\r\n\r"]
    reference = openai(folder / "gpt1")
    assert [gpt1.encode(text) for text in texts] == [reference(text) for text in texts]


def test_gpt1_reads_signs_newlines_and_contractions_as_it_was_trained(gpt1: Tokenizer) -> None:
    def shown(text: str) -> list[str]:
        return [gpt1.token_text(token) for token in gpt1.encode(text)]

    assert shown("It's —\n\n well… don't´") == ["it␣", "'s␣", "-␣", "\\n", "well␣", "...␣", "do␣", "n't␣", "'␣"]
    assert shown("É 日") == ["é␣", "<unk>"]
    assert gpt1.decode(gpt1.encode("“Call me Ishmael,”\nhe said")) == '" call me ishmael , " \nhe said'


def test_gpt1_stays_faithful_in_its_directory(gpt1: Tokenizer, folder: Path, lines: list[str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    gpt1.save(tmp_path)
    loaded, other = Tokenizer.load(tmp_path), gpt1_from_openai(folder / "gpt1", faithful=False)
    assert [loaded.encode(line) for line in UGLY] == [gpt1.encode(line) for line in UGLY]
    assert loaded.fingerprint == gpt1.fingerprint != other.fingerprint
    assert loaded.encode("don't\nyou") != other.encode("don't\nyou")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert all(theirs(text, split_special_tokens=True)["input_ids"] == other.encode(text) for text in lines[:200] + UGLY)


def test_gpt1_streams_the_space_before_a_word(gpt1: Tokenizer) -> None:
    decoder, ids = StreamDecoder(gpt1), gpt1.encode("the unbelievable cat.\nit sat")
    parts = [decoder.push(token) for token in ids]
    assert parts[0] == " the"
    assert "".join(parts) + decoder.finish() == " the unbelievable cat . \nit sat"


def test_gpt1_without_its_packages_says_how_to_get_them(gpt1: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretell.tokenizers import gpt1 as module

    module._libraries.cache_clear()
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ModelError, match="needs the package ftfy") as caught:
        gpt1.encode("text")
    assert 'pip install "foretell[gpt1]"' in caught.value.cure
