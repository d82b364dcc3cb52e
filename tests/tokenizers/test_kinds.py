import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.base.errors import DataError, SettingError
from foretell.base.settings import load_settings
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from foretell.tokenizers.train import train

SAMPLES = [
    "",
    " ",
    "Hello wörld",
    "  x \n\n\ty",
    "e\u0301 中文 👩‍👩‍👧 \u2028",
    "12345 don't",
    "\x00\x01",
    "don’t\r\n",
    "<unk>[SEP]",
    "x" * 300,
]
SIZES = {"wordpiece": 700, "char": 8192, "word": 500, "byte": 8192}


@pytest.fixture(scope="module")
def tokenizers_of(source_text: str) -> dict[str, Tokenizer]:
    return {kind: learned(kind, source_text) for kind in SIZES}


@pytest.fixture(params=SIZES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(kind: str, text: str, **settings: object) -> Tokenizer:
    chosen = TokenizerSettings.model_validate({"kind": kind, "vocab_size": SIZES[kind], **settings})
    return train(lambda: [text], chosen)


def test_each_kind_has_the_vocabulary_it_should(tokenizers_of: dict[str, Tokenizer], source_text: str) -> None:
    assert {kind: tokenizer.kind for kind, tokenizer in tokenizers_of.items()} == {kind: kind for kind in SIZES}
    sizes = {kind: tokenizer.vocab_size for kind, tokenizer in tokenizers_of.items()}
    assert sizes == {"wordpiece": 700, "char": len(set(source_text)) + 2, "word": 500, "byte": 257}


def test_bpe_is_learned_through_the_same_door(tokenizer: Tokenizer, source_text: str) -> None:
    assert train(lambda: [source_text], TokenizerSettings(vocab_size=1000)).fingerprint == tokenizer.fingerprint


def test_saved_and_loaded_it_is_the_same(tokenizers_of: dict[str, Tokenizer], kind: str, tmp_path: Path, source_text: str) -> None:
    tokenizer = tokenizers_of[kind]
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.kind, loaded.fingerprint, loaded.end_of_text) == (kind, tokenizer.fingerprint, tokenizer.end_of_text)
    assert (loaded.unknown, loaded.special_ids) == (tokenizer.unknown, tokenizer.special_ids)
    assert [loaded.encode(text) for text in SAMPLES] == [tokenizer.encode(text) for text in SAMPLES]


@pytest.mark.parametrize("model_type", [None, "gpt2", "bert"])
def test_transformers_opens_it_with_the_same_ids(
    tokenizers_of: dict[str, Tokenizer], kind: str, model_type: str | None, tmp_path: Path, source_text: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizers_of[kind]
    tokenizer.save(tmp_path, context_length=128)
    if model_type:
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    for text in [source_text[:5000], *SAMPLES]:
        assert theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == tokenizer.encode(text)


def test_a_text_in_pieces_has_the_tokens_of_the_whole(tokenizers_of: dict[str, Tokenizer], kind: str, source_text: str) -> None:
    tokenizer, long = tokenizers_of[kind], source_text * 2 + "x" * 300_000 + source_text
    assert len(list(tokenizer._pieces(long))) > 1
    assert tokenizer.encode(long) == tokenizer._inner.encode(long, add_special_tokens=False).ids


@given(
    st.text(st.sampled_from("abZ é中9 '.,\n\r\t²_\u0301\u0130\u2028\x1f"), max_size=200) | st.text(max_size=100), st.integers(1, 30)
)
def test_seams_do_not_change_the_tokens_of_any_kind(tokenizers_of: dict[str, Tokenizer], text: str, size: int) -> None:
    for tokenizer in tokenizers_of.values():
        assert tokenizer._seam is not None
        parts = tokenizer._inner.encode_batch(list(pieces(text, size, None, tokenizer._seam)), add_special_tokens=False)
        assert [token for part in parts for token in part.ids] == tokenizer._inner.encode(text, add_special_tokens=False).ids


@given(st.text(max_size=100))
def test_bytes_give_back_any_text(text: str) -> None:
    tokenizer = train(list, TokenizerSettings(kind="byte"))
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_bytes(b"\xff" + text.encode()) == [255, *text.encode()]


@given(st.data())
def test_characters_and_words_give_back_what_they_know(
    tokenizers_of: dict[str, Tokenizer], source_text: str, data: st.DataObject
) -> None:
    letters = st.sampled_from(sorted(set(source_text)))
    text = data.draw(st.text(letters, max_size=100))
    tokenizer = tokenizers_of["char"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)
    ids = data.draw(st.lists(st.integers(2, tokenizers_of["word"].vocab_size - 1), max_size=20))
    assert tokenizers_of["word"].decode(ids) == "".join(str(tokenizers_of["word"]._inner.id_to_token(token)) for token in ids)


def test_words_have_their_space_and_apostrophe() -> None:
    tokenizer = learned("word", "the cat, the Cat's cat.\n\nthe 2nd  e\u0301t\u00e9", vocab_size=12)
    ids = tokenizer.encode("the cat, the Cat's 2nd\n e\u0301t\u00e9")
    assert [tokenizer.token_text(token) for token in ids] == [
        "the",
        "␣cat",
        ",",
        "␣the",
        "␣Cat's",
        "␣2nd",
        "\\n",
        "␣e\u0301t\u00e9",
    ]
    assert tokenizer.encode("\n cat") == [2, 3]  # the most frequent ones, after <|endoftext|> and <unk>


def test_the_unknown_is_visible(tokenizers_of: dict[str, Tokenizer]) -> None:
    for kind in ("char", "word", "wordpiece"):
        tokenizer = tokenizers_of[kind]
        assert tokenizer.unknown == 1
        known = " if" if kind == "word" else "if"  # a word at the beginning is another one than after a space
        ids = tokenizer.encode(f"{known} 龘")
        assert ids.count(1) == 1
        assert tokenizer.decode(ids) == f"{known} \N{REPLACEMENT CHARACTER}"
        assert tokenizer.token_text(1) in ("<unk>", "[UNK]")
    assert tokenizers_of["byte"].unknown is None


def test_what_is_no_text_becomes_the_replacement_character(tokenizers_of: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_of["char"]
    assert tokenizer.encode_bytes(b"if\xff") == [*tokenizer.encode("if"), 1]


def test_half_a_surrogate_pair_is_no_text(tokenizers_of: dict[str, Tokenizer], kind: str) -> None:
    with pytest.raises(DataError, match="failed on a text"):
        tokenizers_of[kind].encode("a\ud800b")


def test_a_stream_goes_on_after_a_text(tokenizers_of: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers_of[kind]
    text = " the parser, if" if kind == "word" else "the parser, if"
    decoder, ids = StreamDecoder(tokenizer), tokenizer.encode(text)
    streamed = "".join(decoder.push(token) for token in ids) + decoder.finish()
    assert tokenizer.decode(ids) == text
    assert streamed == (" " if kind == "wordpiece" else "") + text
    assert tokenizer.byte_lengths()[ids].sum() == len(streamed)
    assert tokenizer.byte_lengths()[tokenizer.end_of_text] == 0


def test_wordpiece_is_berts(tokenizers_of: dict[str, Tokenizer], source_text: str) -> None:
    tokenizer = tokenizers_of["wordpiece"]
    assert [tokenizer.role(name) for name in ("pad", "unk", "cls", "sep", "mask", "eos")] == [0, 1, 2, 3, 4, None]
    assert tokenizer.end_of_text == 3
    assert tokenizer.encode("THE Párser") == tokenizer.encode("the parser")
    assert tokenizer.encode("x" * 101) == [1]
    cased = learned("wordpiece", source_text, lowercase=False)
    assert cased.decode(cased.encode("The Parser")) == "The Parser"


def test_learning_is_the_same_in_every_process(tokenizers_of: dict[str, Tokenizer]) -> None:
    program = """if True:
        import argparse, inspect
        from foretell.tokenizers.train import train
        from foretell.tokenizers.config import TokenizerSettings
        for kind, size in (("wordpiece", 700), ("char", 8192), ("word", 500)):
            print(train(lambda: [inspect.getsource(argparse)], TokenizerSettings(kind=kind, vocab_size=size)).fingerprint)
        """
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment).stdout
    assert shown.split() == [tokenizers_of[kind].fingerprint for kind in ("wordpiece", "char", "word")]


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_too_large_a_vocabulary_names_what_the_text_supports(kind: str) -> None:
    with pytest.raises(SettingError, match=r"1000 tokens is more than this text supports, which is [0-9]+") as caught:
        learned(kind, "the cat sat on the mat", vocab_size=1000)
    supported = int(caught.value.what.rpartition(" ")[2])
    assert learned(kind, "the cat sat on the mat", vocab_size=supported).vocab_size == supported


def test_too_small_a_vocabulary_for_characters_leaves_out_the_rare_ones() -> None:
    tokenizer = learned("char", "aaabbc", vocab_size=4)
    assert tokenizer.encode("abc") == [2, 3, 1]


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_small_vocabularies_are_refused_only_where_bytes_must_fit(kind: str) -> None:
    assert load_settings(TokenizerSettings, None, [f"kind={kind}", "vocab_size=20"]).vocab_size == 20
    with pytest.raises(SettingError, match="vocab_size = 20 is not possible"):
        load_settings(TokenizerSettings, None, ["vocab_size=20"])


def test_the_command_takes_settings(tmp_path: Path) -> None:
    from foretell.cli.main import main

    (tmp_path / "a.txt").write_text("if the cat 123 " * 30)
    given = ["tokenizer.split=gpt2", 'tokenizer.special_tokens=["<|im_end|>"]', "--vocab-size", "265"]
    assert main(["tokenizer", "train", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), *given]) == 0
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.special_ids == {END_OF_TEXT: 0, "<|im_end|>": 1}
    assert len(tokenizer.encode(" 123")) < 3


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SettingError, match="kind = 'bpee' is not possible"):
        load_settings(TokenizerSettings, None, ["kind=bpee"])


@pytest.fixture(scope="module")
def unigram(source_text: str) -> Tokenizer:
    chosen = {"kind": "unigram", "vocab_size": 700, "special_tokens": ("<|im_end|>",)}
    return train(lambda: [source_text], TokenizerSettings.model_validate(chosen))


def test_unigram_is_a_sentencepiece_tokenizer(unigram: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert (unigram.kind, unigram.vocab_size, unigram.unknown) == (
        "sentencepiece",
        700,
        None,
    )  # there are bytes for what it does not know
    assert unigram.special_ids == {"<unk>": 0, END_OF_TEXT: 698, "<|im_end|>": 699}
    unigram.save(tmp_path)
    theirs, loaded = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in SAMPLES:
        ids = unigram.encode(text)
        assert loaded.encode(text) == ids == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@given(st.text(max_size=60) | st.text(st.sampled_from("<unk>0xAF [|]endoftextim_"), max_size=60))
def test_unigram_gives_back_any_text(unigram: Tokenizer, text: str) -> None:
    ids = unigram.encode(text)
    assert unigram.decode(ids) == text.replace("\u2581", " ")
    assert unigram.encode(f"<0x41>{END_OF_TEXT}<unk>")
    assert not set(unigram.special_ids.values()) & set(ids)


def test_unigram_leaves_rare_letters_to_bytes(source_text: str) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    text = "\n".join([source_text * 5, "ж" * 3000, *(rare[at : at + 7] for at in range(0, len(rare), 7))])
    tokenizer = train(lambda: [text], TokenizerSettings(kind="unigram", vocab_size=700))
    assert tokenizer.vocab_size == 700 and tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("жж")) <= 2 and len(tokenizer.encode(rare[-10:])) == 30  # bytes


def test_too_large_a_vocabulary_for_unigram_names_what_the_text_supports() -> None:
    with pytest.raises(SettingError, match=r"1000 tokens is more than this text supports, which is [0-9]+"):
        train(lambda: ["the cat sat on the mat " * 9], TokenizerSettings(kind="unigram", vocab_size=1000))


@pytest.mark.parametrize("kind", ["wordpiece", "char", "word", "byte"])
def test_special_tokens_of_other_kinds(source_text: str, kind: str) -> None:
    tokenizer = learned(kind, source_text, special_tokens=("<|im_end|>",))
    assert tokenizer.vocab_size == {"wordpiece": 700, "char": len(set(source_text)) + 3, "word": 500, "byte": 258}[kind]
    token = tokenizer.special_ids["<|im_end|>"]
    assert token not in tokenizer.encode("a<|im_end|>b")
    assert tokenizer.decode([token]) == ""


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foretell.cli.main import main

    (tmp_path / "a.txt").write_text("if the cat sat on the mat, the cat was happy\n" * 20)
    for name, kind, size in (("bytes", "byte", 257), ("words", "word", 10)):
        text = str(tmp_path / "a.txt")
        assert main(["tokenizer", "train", text, "--out", str(tmp_path / name), "--kind", kind, "--vocab-size", str(size)]) == 0
    capsys.readouterr()
    names = [str(tmp_path / "bytes"), str(tmp_path / "words"), str(tmp_path / "a.txt")]
    assert main(["tokenizer", "compare", *names, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    of_bytes, of_words = found["tokenizers"]
    assert (found["bytes"], found["words"], found["sampled_every"]) == (20 * 45, 20 * 11, 1)
    assert of_bytes["languages"]["all"]["bytes_per_token"] == 1
    assert of_bytes["languages"]["all"]["tokens_per_word"] == pytest.approx(45 / 11)
    assert of_words["vocabulary_used"] == pytest.approx(9 / 10)  # every token but <|endoftext|>
    assert of_words["languages"]["all"]["unknown"] > 0
    assert of_words["engine"] == "tokenizers"
    assert main(["tokenizer", "compare", *names]) == 0
    assert "bytes/token" in capsys.readouterr().out


def test_a_comparison_is_told_by_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretell.base.console import Terminal
    from foretell.corpus.document import Document
    from foretell.jobs import tokenizer as jobs

    train(list, TokenizerSettings(kind="byte")).save(tmp_path / "t")
    documents = [Document("0", "the cat", "a", {"language": "en"}), Document("1", "中文", "b", {"language": "zh"})]
    monkeypatch.setattr(jobs, "read_documents", lambda path: documents)
    (found,) = jobs.compare_tokenizers([tmp_path / "t"], tmp_path, Terminal(quiet=True))["tokenizers"]
    assert {name: said["tokens"] for name, said in found["languages"].items()} == {"all": 13, "en": 7, "zh": 6}


def test_the_command_learns_from_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foretell.cli.main import main

    for name, text in (("a", "if the cat\n"), ("b", "if the dog\n")):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    names = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert main(["tokenizer", "train", *names, "--out", str(tmp_path / "out"), "--kind", "word", "--vocab-size", "6"]) == 0
    assert "12.50% of the tokens" in capsys.readouterr().out
    assert main(["tokenizer", "show", str(tmp_path / "out"), "if the cat\n"]) == 0
    assert "4 tokens, 2.75 bytes per token" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "out").special_ids == {END_OF_TEXT: 0, "<unk>": 1}
    assert main(["tokenizer", "show", "--help"]) == 0
    assert "tokenizer show my-tokenizer" in capsys.readouterr().out
