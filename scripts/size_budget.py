"""The size of the house: lines per package, the largest files and functions; fails where a limit is passed."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_LINES, FILE_LINES, FUNCTION_LINES = 20_400, 400, 60  # the package stays below; a file and a function may reach theirs


def functions(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Length and place of every function in a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}"


def main() -> int:
    """Print the sizes; return 1 when one is over its limit."""
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("foretell/**/*.py"))}
    files = sorted(((len(text.splitlines()), str(path)) for path, text in texts.items()), reverse=True)
    longest = sorted((found for path, text in texts.items() for found in functions(path, text)), reverse=True)
    packages: Counter[str] = Counter()
    for lines, path in files:
        packages["/".join(path.split("/")[:-1])] += lines
    total = packages.total()
    rooms = [(lines, name) for name, lines in packages.most_common()]
    for title, rows in (("lines per package", rooms), ("largest files", files[:5]), ("longest functions", longest[:5])):
        print(f"{title}:", *(f"{lines:>6}  {name}" for lines, name in rows), sep="\n")
    print(f"total: {total} lines (below {PACKAGE_LINES})")
    over = [f"{path}: {lines} lines, at most {FILE_LINES}" for lines, path in files if lines > FILE_LINES]
    over += [f"{place}: {lines} lines, at most {FUNCTION_LINES}" for lines, place in longest if lines > FUNCTION_LINES]
    over += [f"the package has {total} lines; it must stay below {PACKAGE_LINES}"] if total >= PACKAGE_LINES else []
    for problem in over:
        print(f"over budget: {problem}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
