"""Every kind of bad input gets three lines, the right exit code, and leaves nothing half-written."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretell.cli.main import main

TINY = [
    "model.n_layer=1",
    "model.d_model=32",
    "model.context_length=32",
    "training.threads=1",
    "training.tensorboard=false",
    "training.steps=4",
]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, *words: str) -> None:
    """The command ends with `code` and exactly three lines that hold the words."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split(":")[0].strip() for line in lines[-3:]] == ["error", "where", "try"], lines
    for word in words:
        assert word in "\n".join(lines[-3:]), (word, lines)


def build(source: Path, out: Path) -> list[str]:
    return ["corpus", "build", str(source), "--out", str(out)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_missing_path(capsys: pytest.CaptureFixture[str], tmp_path: Path, out: Path) -> None:
    refused(capsys, build(tmp_path / "nowhere", out), 2, "nowhere")
    refused(capsys, ["quickstart", tmp_path / "nowhere", "--out", out], 2, "nowhere")
    refused(capsys, ["generate", tmp_path / "nowhere", "--prompt", "x"], 1, "nowhere")
    refused(capsys, ["pretrain", "tiny", f"data.shards={tmp_path / 'nowhere'}", "--out", str(out)], 2, "nowhere", "shards build")
    assert not out.exists()


def test_empty_folder(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    refused(capsys, build(source, out), 1)
    refused(capsys, ["quickstart", source, "--out", out], 1)
    assert not out.exists()


def test_only_binary_files(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    (source / "a.bin").write_bytes(bytes(range(256)) * 10)
    (source / "b.txt").write_bytes(b"\x00\x01" * 500)
    refused(capsys, build(source, out), 1, "binary 2")
    assert not out.exists()


def test_invalid_utf8(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    (source / "a.txt").write_bytes(bytes([200, 201, 202]) * 100)
    refused(capsys, build(source, out), 1, "not_utf8")
    (source / "b.txt").write_text("This text is whole, and is kept whatever lies beside it. " * 5)
    assert main(build(source, out)) == 0
    assert json.loads((out / "manifest.json").read_text())["dropped"]["not_utf8"]["documents"] == 1


def test_truncated_gzip(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    whole = gzip.compress(os.urandom(5000).hex().encode())
    (source / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    refused(capsys, build(source, out), 1, "damaged_gzip")
    assert not out.exists()


def test_jsonl_with_broken_lines_and_without_a_text_field(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    (source / "a.jsonl").write_text('{"text": "cut off\n{"title": "no text here"}\n[1, 2]\n')
    refused(capsys, build(source, out), 1, "broken_json", "no_text_field")
    with (source / "a.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "One line is whole, and it is kept, with its place. " * 4}) + "\n")
    assert main(build(source, out)) == 0
    assert json.loads((out / "manifest.json").read_text())["totals"]["documents"] == 1


@pytest.mark.slow
def test_a_single_line_of_200_megabytes(source: Path, out: Path) -> None:
    with (source / "line.txt").open("wb") as stream:
        for _ in range(200):
            stream.write(b"word " * 200_000)
    script = (
        "import resource, sys\nfrom foretell.cli.main import main\ncode = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *build(source, out)], capture_output=True, text=True)
    assert done.returncode == 1 and "line" in done.stderr
    assert int(done.stdout.split()[-1]) < 500 and not out.exists()


def test_less_text_than_one_context(capsys: pytest.CaptureFixture[str], shards_folder: Path, source: Path, out: Path) -> None:
    command = ["pretrain", "tiny", f"data.shards={shards_folder}", "model.context_length=100000", "--out", str(out)]
    refused(capsys, command, 1, "100000", "context_length")
    (source / "short.txt").write_text("Too short to learn anything from it.")
    refused(capsys, ["quickstart", source, "--out", out, "--minutes", "0.5"], 1)
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.setps=5", ("training.setps", "did you mean training.steps?", "command line")),
        ("trainig.steps=5", ("trainig", "training")),
        ("training.steps=many", ("training.steps", "valid integer")),
        ("training.steps=-3", ("training.steps", "greater than 0")),
        ("schedule.decay=cosin", ("schedule.decay", "'cosine'", "'wsd'")),
        ("steps", ("key=value",)),
    ],
)
def test_unknown_keys_and_wrong_values(capsys: pytest.CaptureFixture[str], setting: str, words: tuple[str, ...], out: Path) -> None:
    refused(capsys, ["pretrain", "tiny", setting, "--out", str(out)], 2, *words)
    assert not out.exists()


def test_a_wrong_key_in_a_file_names_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('# a comment\n[model]\npreset = "modern"\n\n[training]\nsteps = 5\nmicro_batches = 4\n')
    refused(capsys, ["pretrain", str(recipe)], 2, f"{recipe}:7", "training.micro_batch?")
    recipe.write_text('[training]\nsteps = "five"\n')
    refused(capsys, ["pretrain", str(recipe)], 2, f"{recipe}:2", "training.steps")


def test_vocabulary_larger_than_the_text_supports(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> None:
    (source / "a.txt").write_text("the cat sat on the mat. " * 40)
    refused(capsys, ["tokenizer", "train", source / "a.txt", "--out", out, "--vocab-size", "9000"], 2, "9000", "vocab_size")
    assert not out.exists()


def test_heads_that_do_not_divide_the_width(capsys: pytest.CaptureFixture[str], shards_folder: Path, out: Path) -> None:
    refused(
        capsys,
        ["pretrain", "tiny", f"data.shards={shards_folder}", "model.n_head=5", "model.d_model=64", "--out", out],
        2,
        "n_head = 5",
        "64",
    )
    assert not out.exists()


def test_a_run_that_exists(capsys: pytest.CaptureFixture[str], shards_folder: Path, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    refused(capsys, ["pretrain", "tiny", f"data.shards={shards_folder}", *TINY, "--out", out], 2, str(out), "--resume")
    refused(capsys, ["quickstart", "--out", out], 2, str(out))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write into: for root, who may everywhere, a disk that is mounted read-only."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.geteuid() != 0:
        yield folder
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("root, and cannot mount a read-only disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_write_permission(capsys: pytest.CaptureFixture[str], shards_folder: Path, source: Path, locked: Path) -> None:
    (source / "a.txt").write_text("This text is whole, and would be kept if only there were a place for it. " * 5)
    command = ["pretrain", "tiny", f"data.shards={shards_folder}", *TINY, "--out", str(locked / "run")]
    for arguments in (command, build(source, locked / "corpus"), ["quickstart", str(source), "--out", str(locked / "run")]):
        refused(capsys, arguments, 2, "cannot write here", "--out")
    assert not any(locked.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str], shards_folder: Path, small_disk: Path
) -> None:
    """The first checkpoint fits (0.5 MB), then the disk is filled; when there is room again the run goes on."""
    run = small_disk / "run"
    command = ["pretrain", "tiny", f"data.shards={shards_folder}", *TINY, "training.checkpoint_every=2", "--out", str(run)]
    from foretell.base.files import damaged_files

    class Fill:
        def __call__(self, *_: object) -> None:
            if (run / "checkpoints" / "step-00000002").exists() and not (small_disk / "filler").exists():
                (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 100_000))

    from foretell.base.console import Terminal
    from foretell.base.errors import CapacityError
    from foretell.jobs.pretrain import pretrain
    from foretell.jobs.recipe import load_recipe

    with pytest.raises(CapacityError, match="disk is full") as caught:
        pretrain(load_recipe("tiny", command[2:-2]), run, Terminal(quiet=True), extra=(Fill(),))
    assert caught.value.exit_code == 3 and "free)" in caught.value.where
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    assert damaged_files(run / "checkpoints" / "step-00000002") == []
    (small_disk / "filler").unlink()
    assert main([*command, "--resume", "--quiet"]) == 0
    assert (run / "model" / "model.safetensors").exists()


def test_a_model_directory_without_a_tokenizer(capsys: pytest.CaptureFixture[str], shards_folder: Path, out: Path) -> None:
    assert main(["pretrain", "tiny", f"data.shards={shards_folder}", *TINY, "--out", str(out), "--quiet"]) == 0
    refused(capsys, ["generate", out / "model", "--prompt", "word " * 100], 2, "context holds 32")
    (out / "model" / "tokenizer.json").unlink()
    refused(capsys, ["generate", out / "model", "--prompt", "x"], 1, "tokenizer.json")
