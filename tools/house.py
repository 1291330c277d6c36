"""Counts of what a reader meets in a source tree: sizes, parameters, types, docstrings, circles.

    python tools/house.py [PACKAGE]

PACKAGE: a folder with an `__init__.py` (default jaxadv). Functions that the package exports and
those of its `cli` may have any number of parameters. Standard library only.
"""

import ast
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MANY = 8  # parameters that a function outside the public API may have
LONG = 100  # lines of a function
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
SECTION = re.compile(
    r"^\s*(Args|Arguments|\*\*Arguments|Parameters|Attributes|Returns|\*\*Returns|Yields)"
    r"\b.*",
    re.MULTILINE,
)


class Function(NamedTuple):
    """A function or method: `where` it stands, `name`, `lines` without its docstring, and the
    number of `parameters` without self and cls."""

    where: str
    name: str
    lines: int
    parameters: int


def share(part: int, whole: int) -> str:
    """ "12.5 % (1 of 8)"."""
    return f"{100 * part / max(whole, 1):.1f} % ({part} of {whole})"


def percentile(values: list[int], rank: float) -> int:
    """The smallest value that at least the share `rank` of them does not exceed."""
    return sorted(values)[max(0, -(-int(rank * 1000) * len(values) // 1000) - 1)]


def parameters_of(node: FUNCTION) -> list[ast.arg]:
    """All parameters without self and cls."""
    own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    own += [extra for extra in (node.args.vararg, node.args.kwarg) if extra is not None]
    return [one for one in own if one.arg not in ("self", "cls")]


def docstring_lines(node: ast.AST) -> int:
    """Lines that the docstring takes."""
    first = node.body[0] if getattr(node, "body", None) else None  # type: ignore[attr-defined]
    text = first.value if isinstance(first, ast.Expr) else None
    if first is None or not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def functions(tree: ast.Module, where: str) -> Iterator[Function]:
    """Every function of a module, methods and inner ones too."""

    def visit(node: ast.AST, prefix: str) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FUNCTION | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if isinstance(child, FUNCTION):
                    lines = (child.end_lineno or 0) - child.lineno + 1 - docstring_lines(child)
                    yield Function(where, name, lines, len(parameters_of(child)))
                yield from visit(child, f"{name}.")
            else:
                yield from visit(child, prefix)

    yield from visit(tree, "")


def is_any(annotation: ast.expr | None) -> bool:
    """Whether an annotation is `Any` and no more."""
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def annotations(tree: ast.Module) -> tuple[list[ast.expr], list[ast.expr]]:
    """The annotations of parameters, and those of class fields."""
    of_parameters, of_fields = [], []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTION):
            of_parameters += [p.annotation for p in parameters_of(node) if p.annotation]
        elif isinstance(node, ast.ClassDef):
            of_fields += [one.annotation for one in node.body if isinstance(one, ast.AnnAssign)]
    return of_parameters, of_fields


def is_command(node: ast.AST) -> bool:
    """Whether this function is a command of the app: its docstring is the text of `--help`, where
    the options describe its parameters."""
    return isinstance(node, FUNCTION) and any(
        ast.unparse(one).startswith("app.command") for one in node.decorator_list
    )


def long_docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of more than four lines, of public functions and classes but commands."""
    for node in ast.walk(tree):
        if is_command(node):
            continue
        if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text and len(text.splitlines()) > 4:
                yield text


def imports(tree: ast.Module, module: str, known: set[str], later: bool = False) -> set[str]:
    """The modules of the package that this one imports; later: those too that it imports on first
    use, in a function. What is imported for types alone does not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FUNCTION) and not later:
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(name.name for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and child.level == 0:
                inner = {f"{child.module}.{name.name}" for name in child.names} & known
                found.update(inner or {child.module})
            visit(child)

    visit(tree)
    return (found & known) - {module}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that import each other (strongly connected, of two or more)."""

    def reach(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for other in arrows.get(todo.pop(), set()) - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reached = {module: reach(module) for module in arrows}
    found: list[list[str]] = []
    for module in sorted(arrows):
        group = sorted(m for m in reached[module] if module in reached.get(m, set()))
        if len(group) > 1 and group not in found:
            found.append(group)
    return found


def exported(package: Path) -> set[str]:
    """The names that the package's stub imports, or those in its `__all__`."""
    stub = package / "__init__.pyi"
    if stub.is_file():
        imports = [
            node
            for node in ast.walk(ast.parse(stub.read_text()))
            if isinstance(node, ast.ImportFrom)
        ]
        return {name.asname or name.name for node in imports for name in node.names}
    for node in ast.walk(ast.parse((package / "__init__.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def report(package: Path, say: Callable[[str], None] = print) -> None:
    """Say every count of the package."""
    texts = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = [len(text.splitlines()) for text in texts.values()]
    say(f"files                         {len(texts)}")
    say(f"lines                         {sum(lengths):,}")
    say(f"file length                   median {statistics.median(lengths):g}, max {max(lengths)}")
    every = [
        one
        for path, tree in trees.items()
        for one in functions(tree, path.relative_to(package).as_posix())
    ]
    sizes = [one.lines for one in every]
    over = [one for one in every if one.lines > LONG]
    say(
        f"functions                     {len(every):,}: median {statistics.median(sizes):g}, "
        f"p99 {percentile(sizes, 0.99)}, over {LONG} lines {len(over)}"
    )
    for one in over:
        say(f"    {one.lines:4} lines      {one.where} {one.name}")
    public = exported(package)
    most = sorted((one for one in every if one.parameters > MANY), key=lambda f: -f.parameters)
    inner = [f for f in most if f.name not in public and not f.where.startswith("cli/")]
    say(
        f"parameters                    mean {statistics.mean(f.parameters for f in every):.2f}, "
        f"over {MANY}: {len(most)}, of these outside the public API {len(inner)}"
    )
    for one in inner:
        say(f"    {one.parameters:4} parameters {one.where} {one.name}")
    both = [annotations(tree) for tree in trees.values()]
    for title, which in (("bare Any, of parameters ", 0), ("bare Any, of class fields", 1)):
        all_of_them = [annotation for pair in both for annotation in pair[which]]
        say(f"{title:29} {share(sum(map(is_any, all_of_them)), len(all_of_them))}")
    texts_of = [text for tree in trees.values() for text in long_docstrings(tree)]
    with_section = sum(bool(SECTION.search(text)) for text in texts_of)
    say(
        f"long docstrings with sections {share(with_section, len(texts_of))}, texts of --help apart"
    )
    say(f"fmt: skip                     {sum(t.count('# fmt: ' + 'skip') for t in texts.values())}")
    names = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): tree
        for path, tree in trees.items()
    }
    for title, later in (("import circles", False), ("with those on first use", True)):
        found = circles(
            {name: imports(tree, name, set(names), later) for name, tree in names.items()}
        )
        say(f"{title:29} {len(found)}")
        for group in found:
            say(f"    {' <-> '.join(group)}")
    readme = package.parent / "README.md"
    say(f"README bytes                  {readme.stat().st_size if readme.is_file() else 0:,}")


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    report(Path(sys.argv[1]) if len(sys.argv) > 1 else root / "jaxadv")
