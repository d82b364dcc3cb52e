"""Chat templates are programs of strangers: run as transformers runs them, with every step and every character counted."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from foretell.base.errors import ModelError, RequestError

LONGEST = 100_000  # characters of a template; the longest published ones have some 20,000
STEPS, STEPS_OF_MESSAGE, STEPS_OF_CHARACTER = 1_000_000, 20_000, 100  # ChatML takes some 50 a message and 6 a character
# No filter or method may make more than the product of the two largest things that it is given.
QUICK = "count d default first last length safe"  # take the same time however large their input is
FILTERS = "capitalize dictsort e escape float int items join list lower map max min reject rejectattr replace reverse select"
FILTERS += " selectattr sort string title trim unique upper"
METHODS = "capitalize count endswith find get index isalpha isdigit isspace items join keys lower lstrip removeprefix removesuffix"
METHODS += " replace rfind rsplit rstrip split splitlines startswith strip title upper values"
COMPARING = {"in", "eq", "equalto", "==", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan", "ge", ">="}

_left: ContextVar[list[int]] = ContextVar("_left")  # steps that the template being run may still take


class Refusal(Exception):
    """The template's own `raise_exception`."""


def write(template: str, messages: Sequence[Mapping[str, str]], where: str, **values: object) -> str:
    """The text that a template makes of messages. Raises RequestError for its own refusal, ModelError when it fails or runs on."""
    steps = STEPS + sum(STEPS_OF_MESSAGE + STEPS_OF_CHARACTER * len(message["content"]) for message in messages)
    before = _left.set([steps])
    try:
        return _compiled(template).render(messages=[dict(message) for message in messages], tools=None, documents=None, **values)
    except Refusal as refusal:
        what = f"the chat template refuses this conversation: {refusal}"
        raise RequestError(what, where=where, cure="order and name the messages as the template wants them") from refusal
    except Exception as error:
        cure = "correct the template, or take the one that the model was published with"
        raise ModelError(f"the chat template failed: {error}", where="chat_template", cure=cure) from error
    finally:
        _left.reset(before)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    if len(template) > LONGEST:
        raise SecurityError(f"it has {len(template)} characters, and more than {LONGEST} are not read")
    environment = _environment()
    tree = environment.parse(template)
    _count(tree)
    tree.set_environment(environment)
    return environment.from_string(tree)


@lru_cache(maxsize=1)
def _environment() -> "_Counting":
    return _Counting(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])


class _Generation(Extension):
    """`{% generation %}`, with which some templates show trainers the assistant's part; its content is written as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counting(ImmutableSandboxedEnvironment):
    """A sandbox in which time and memory are bounded: whatever can be large is counted before it is made."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known: dict[str, Any] = self.filters
        self.filters = {name: _counted(known[name]) for name in FILTERS.split()} | {name: known[name] for name in QUICK.split()}
        self.filters |= {"tojson": _tojson, "counted": _passing, "repeated": _repeated}
        tests: dict[str, Any] = self.tests
        self.tests = {name: _counted(test) if name in COMPARING else test for name, test in tests.items()}
        self.tests |= {
            "odd": lambda value: int(value) % 2 == 1,
            "even": lambda value: int(value) % 2 == 0,
        }  # % of a text formats it
        del self.tests["divisibleby"]
        self.globals = {"range": _range, "dict": dict, "namespace": _namespace}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Collection | int | float | type):
            return attr in METHODS.split()
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `format` in any form: a width is all it takes to fill the memory."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        receiver = [__obj.__self__] if isinstance(__obj, MethodType | BuiltinMethodType) else []
        _spend_on(*receiver, *args, *(value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (operator != "+" and not numbers):
            raise SecurityError(f"it computes {operator}, which is for numbers only, or for none")
        if any(isinstance(side, int) and abs(side) >= 2**63 for side in (left, right)):
            raise SecurityError("it computes with numbers of more than 63 bits")
        _spend(1 + sum(len(side) for side in (left, right) if isinstance(side, Collection)))
        return super().call_binop(context, operator, left, right)


class _Names(Namespace):
    """Jinja's namespace, without the names that Jinja itself would call."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError("a name in a namespace begins with _")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"  # what is in it may be large


def _count(node: nodes.Node) -> int:
    """Have everything counted that calls neither a filter nor a function. Returns the steps of one pass through the node."""
    steps = 1 + sum(_count(child) for child in node.iter_child_nodes()) + len(getattr(node, "data", ""))
    match node:
        case nodes.Output() | nodes.Concat():
            node.nodes = [child if isinstance(child, nodes.TemplateData) else _through("counted", child) for child in node.nodes]
        case nodes.Compare():
            node.expr = _through("counted", node.expr)
        case nodes.Operand():
            node.expr = _through("counted", node.expr)
        case nodes.Pair():
            node.key = _through("counted", node.key)
        case nodes.Getitem(arg=nodes.Slice()):
            node.node = _through("repeated", node.node, 1)
        case nodes.Getitem():
            node.arg = _through("counted", node.arg)
        case nodes.For():
            if node.recursive:
                raise SecurityError("it has a recursive loop")
            node.iter = _through("repeated", node.iter, steps)
        case nodes.Macro() | nodes.CallBlock() | nodes.Block():
            once = _through("repeated", nodes.Const("1", lineno=node.lineno), steps)
            node.body.insert(0, nodes.ExprStmt(once, lineno=node.lineno))
    return steps


def _through(name: str, node: Any, *values: int) -> nodes.Expr:
    if isinstance(node, nodes.Const) and name == "counted":
        return node
    arguments = [nodes.Const(value, lineno=node.lineno) for value in values]
    return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)


def _spend(steps: int) -> None:
    left = _left.get()
    left[0] -= steps
    if steps < 0 or left[0] < 0:
        raise SecurityError("it takes more steps than the longest honest template")


def _size(value: Any) -> int:
    """Characters and members of a value, and of all that is in it."""
    if isinstance(value, str | bytes | range) or not isinstance(value, Collection):
        return 1 + len(value) if isinstance(value, str | bytes | range) else 1
    size = 1
    for member in value.items() if isinstance(value, Mapping) else value:
        _spend(4)  # a list in which the same list stands twice, and so on, is larger than the memory
        size += _size(member)
    return size


def _spend_on(*values: Any) -> None:
    """Pay for work on values in advance: the product of the two largest."""
    *_, second, largest = sorted([1, 1, *map(_size, values)])
    _spend(largest * second)


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _spend_on(*args, *kwargs.values())
        result = function(*args, **kwargs)
        return list(result) if isinstance(result, Iterator) else result

    return run


def _passing(value: Any) -> Any:
    _spend(_size(value))
    return value


@pass_context  # which keeps Jinja from doing it once, at compile time
def _repeated(context: Context, members: Any, steps: int) -> Any:
    members = list(members) if isinstance(members, Iterator) else members
    _spend(steps * len(members))
    return members


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    size = _size(value)
    _spend(size * _size(separators) + (int(indent or 0) * size * size))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*bounds: int) -> range:
    _spend(len(range(*bounds)))
    return range(*bounds)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    names = _Names()
    for name, value in dict(*args, **kwargs).items():
        names[name] = value
    return names


def _raise_exception(message: str) -> None:
    raise Refusal(message)


def _strftime_now(pattern: str) -> str:
    if re.search(r"%[^A-Za-z%]*\d", pattern):
        raise SecurityError("a date is written with a width")
    return datetime.now().strftime(pattern)
