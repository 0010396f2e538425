"""The project stays thin: lines, files, functions, classes and exceptions are counted."""

import ast
import io
import tokenize

import pytest

from lib import paths

#: Lines of code. These only ever go down.
LINES = {"lib": 6_000, "tests": 6_000}
FILES, FILE_LINES, FUNCTION_LINES, EXCEPTIONS = 50, 300, 40, 10
METHODS, ATTRIBUTES = 20, 20  # of a class
SILENT = {getattr(tokenize, name) for name in ["COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"]}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def parsed(path):
    """The numbers of a file's code lines (no blanks, comments, docstrings), and its syntax tree."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines, tree


@pytest.fixture(scope="module")
def library():
    return {path: parsed(path) for path in sorted((paths.ROOT / "lib").rglob("*.py"))}


def nodes(library, kind):
    return [
        (f"{path.relative_to(paths.ROOT)}:{node.name}", node, lines)
        for path, (lines, tree) in library.items()
        for node in ast.walk(tree)
        if isinstance(node, kind)
    ]


def attributes(node):
    """The names that a class assigns to ``self``."""
    targets = [
        part for part in ast.walk(node) if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
    ]
    return {part.attr for part in targets if isinstance(part.value, ast.Name) and part.value.id == "self"}


@pytest.mark.parametrize("folder", LINES)
def test_lines(folder):
    assert sum(len(parsed(path)[0]) for path in (paths.ROOT / folder).rglob("*.py")) <= LINES[folder]


def test_files(library):
    sizes = {str(path): len(lines) for path, (lines, _) in library.items() if len(lines) > 1}
    assert len(sizes) <= FILES
    assert {name: size for name, size in sizes.items() if size > FILE_LINES} == {}


def test_functions(library):
    sizes = {
        name: sum(node.lineno <= line <= node.end_lineno for line in lines)
        for name, node, lines in nodes(library, FUNCTION)
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}


def test_classes(library):
    for name, node, _ in nodes(library, ast.ClassDef):
        assert sum(isinstance(member, FUNCTION) for member in node.body) <= METHODS, name
        assert len(attributes(node)) <= ATTRIBUTES, name


def test_exceptions(library):
    names = [
        name
        for name, node, _ in nodes(library, ast.ClassDef)
        if any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert len(names) <= EXCEPTIONS, names
