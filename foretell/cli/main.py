"""The `foretell` command: its verbs, the options that all share, and what a person sees when something goes wrong."""

import argparse
import difflib
import importlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from foretell import __version__
from foretell.base.console import Terminal
from foretell.base.errors import CapacityError, ForetellError, SettingError

COMMANDS: dict[str, tuple[str, str]] = {  # verb → module (only the chosen one is imported, so that help is instant), summary
    "quickstart": ("foretell.cli.quickstart", "from raw text to your own language model in minutes"),
    "corpus": ("foretell.cli.corpus", "build a clean corpus with provenance, and look into one"),
    "tokenizer": ("foretell.cli.tokenizer", "train a tokenizer, and see what it makes of a text"),
    "shards": ("foretell.cli.shards", "turn a corpus into token shards, split into training and held-out"),
    "recipes": ("foretell.cli.recipes", "list the bundled recipes with hardware, time, memory and score"),
    "plan": ("foretell.cli.plan", "will it fit, how long, how much: before a run is begun"),
    "pretrain": ("foretell.cli.pretrain", "train a model from a recipe, or continue a run exactly"),
    "evaluate": ("foretell.cli.evaluate", "held-out loss, perplexity and bits per byte of a model"),
    "runs": ("foretell.cli.runs", "list runs: state, step, losses, speed, size"),
    "compare": ("foretell.cli.compare", "runs or evaluations side by side: settings, curves, who got there first, tests"),
    "generate": ("foretell.cli.generate", "let a model write, and see why it chose each token"),
    "import": ("foretell.cli.import_model", "open a pretrained model: Hugging Face, GGUF, PEFT, OpenAI's and Google's releases"),
    "export": ("foretell.cli.export_model", "write a model for transformers, vLLM, llama.cpp, Ollama or onnxruntime"),
}
COMMON_OPTIONS = {
    "json": "print the result as JSON on standard output, everything else on standard error",
    "quiet": "say nothing but warnings and results",
    "debug": "show the traceback of an error",
}
CLOSED_PIPE, INTERRUPTED = 141, 130  # what a shell reports for a program that SIGPIPE or SIGINT ended


class Parser(argparse.ArgumentParser):
    """Its sub-verbs share the common options and the example, options may stand between positionals, errors are three lines."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        self._plain = False  # True: parse as argparse does, because sub-verbs follow or an intermixed parse is under way
        common = self.add_argument_group("options of every command")
        for name, text in COMMON_OPTIONS.items():  # SUPPRESS: a sub-verb's parser must not reset what was given before it
            common.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse does, with parsers of this kind."""
        self._plain = True
        return super().add_subparsers(**{"parser_class": partial(Parser, epilog=self.epilog), **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with options allowed anywhere."""
        plain, self._plain = self._plain, True
        return (super().parse_known_args if plain else self.parse_known_intermixed_args)(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Wrong usage. Raises SettingError."""
        raise SettingError(message, where="command line", cure=f"{self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok · 1 failed · 2 wrong usage · 3 will not fit · 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # torch's threads wait briefly: with the default a busy machine is 20x slower
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a model may write what this terminal's encoding has no sign for
    with suppress(ValueError):  # outside of the main thread there is nobody to be told
        signal.signal(signal.SIGTERM, _interrupt)  # until a run is under way, which finishes its step first
    try:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
                return _dispatch(words)
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be met quietly
    except SystemExit as stop:  # argparse leaves with 0 after --help, rich with 1 when the reader of a pipe has gone
        return CLOSED_PIPE if stop.code and _alone() else int(stop.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain while it exits
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        explained = _explained(error)
        print(*(traceback.format_exception(error) if "--debug" in words else []), explained, sep="", file=sys.stderr)
        return explained.exit_code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else SettingError.exit_code
    if words == ["--version"]:
        print(f"foretell {__version__}")
        return 0
    name, summary = _found(words[0])
    module = importlib.import_module(name)
    description, epilog = f"{summary[0].upper()}{summary[1:]}.", f"example:\n  {module.EXAMPLE}"
    parser = Parser(prog=f"foretell {words[0]}", description=description, epilog=epilog)
    module.configure(parser)
    arguments = parser.parse_args(words[1:], argparse.Namespace(**dict.fromkeys(COMMON_OPTIONS, False)))
    result = module.run(arguments, Terminal(quiet=arguments.quiet, json=arguments.json))
    if arguments.json and (result or _alone()):
        from foretell.base.records import dump

        print(dump(result, indent=2))
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _alone() -> bool:
    """No torchrun started this process: of several, one tells results and errors, and all leave with its exit code."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def _overview() -> str:
    verbs = "\n".join(f"  {verb:10}  {summary}" for verb, (_, summary) in COMMANDS.items())
    return f"""usage: foretell COMMAND ...

From raw text to a language model that you trained, understand, evaluated and serve.

commands:
{verbs}

`foretell COMMAND --help` explains one and shows an example. To begin: foretell quickstart"""


def _found(verb: str) -> tuple[str, str]:
    if verb in COMMANDS:
        return COMMANDS[verb]
    near = difflib.get_close_matches(verb, COMMANDS, n=1)
    cure = f"did you mean foretell {near[0]}?" if near else "foretell --help lists the commands"
    raise SettingError(f"there is no command '{verb}'", where="command line", cure=cure)


def _explained(error: Exception) -> ForetellError:
    """Any failure as an error of ours; where: the deepest line of this package (that of `main`, if nothing else)."""
    if isinstance(error, ForetellError):
        return error
    frames, package = traceback.extract_tb(error.__traceback__), str(Path(__file__).parents[1])
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename.startswith(package)][-1]
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        cure = "choose a smaller batch, context or model (for example training.micro_batch=1), or close other programs"
        return CapacityError(f"the memory is used up ({what})", where=where, cure=cure)
    return ForetellError(what, where=where, cure="run the same command with --debug, and report what it prints")
