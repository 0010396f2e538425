"""Static rules: the notebooks as committed are clean, alike and portable."""

import ast
import builtins
import functools
import pkgutil
import re

import nbformat
import pytest
from pyspark.sql import functions as sql

from lib import paths, pipeline

LIMIT = 1_500_000
FILES = {name: paths.ROOT / "notebooks" / f"{name}.ipynb" for name in pipeline.NAMES}
BOOKS = {name: nbformat.read(file, as_version=4) for name, file in FILES.items()}
CODE = {name: [cell for cell in book.cells if cell.cell_type == "code"] for name, book in BOOKS.items()}
OUTPUTS = {name: [output for cell in cells for output in cell.outputs] for name, cells in CODE.items()}
each_notebook = pytest.mark.parametrize("name", pipeline.NAMES)


def text_of(output):
    data = output.get("data", {})
    plain = [output.get("text", "")] + [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join("".join(part) for part in plain)


@each_notebook
def test_one_parameters_cell_before_all_other_code_and_its_check_next(name):
    tagged = [cell for cell in BOOKS[name].cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == CODE[name][:1]
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"[A-Z_]+: (int|str|float|bool) = [^#=]+  # .+", line), line
    assert f'params.check("{name}", globals())' in CODE[name][1].source


@each_notebook
def test_executed_from_top_to_bottom_by_python3(name):
    assert [cell.execution_count for cell in CODE[name]] == list(range(1, len(CODE[name]) + 1))
    assert BOOKS[name].metadata.kernelspec.name == "python3"
    assert "papermill" not in BOOKS[name].metadata


@each_notebook
def test_no_error_no_widget_no_stderr(name):
    for output in OUTPUTS[name]:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert not any("widget" in kind for kind in output.get("data", {}))


@each_notebook
def test_no_definitions(name):
    for cell in CODE[name]:
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in nodes), (
            cell.source
        )


@each_notebook
def test_no_path_of_a_machine(name):
    texts = [cell.source for cell in BOOKS[name].cells] + [text_of(output) for output in OUTPUTS[name]]
    for text in texts:
        assert str(paths.ROOT) not in text
        assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|work|Users|var|opt)/", text), text[:300]


@each_notebook
def test_ids_size_and_prose(name):
    cells = BOOKS[name].cells
    assert len({cell.id for cell in cells}) == len(cells)
    assert FILES[name].stat().st_size < LIMIT
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(CODE[name]) / 2


@each_notebook
def test_calls_that_the_prose_names_exist(name):
    prose = "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")
    spans = re.findall(r"`([^`\n]+)`", prose)
    cells = [cell.source for cell in CODE[name]]
    imports = [span for span in spans if re.match(r"(from [\w.]+ )?import \w+$", span)]
    names = dict(vars(sql)) | dict(vars(builtins))
    for node in ast.walk(ast.parse("\n".join(imports + cells))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                path = ".".join(filter(None, [getattr(node, "module", ""), alias.name]))
                names[alias.asname or alias.name] = pkgutil.resolve_name(path)
    own = set(re.findall(r"^(\w+)(?:: \w+)? = ", "\n".join(cells), re.MULTILINE))
    for call in re.findall(r"(?<![.\w])([a-zA-Z_][\w.]*)\(", "\n".join(spans)):
        head, *rest = call.split(".")
        assert head in own or callable(functools.reduce(getattr, rest, names[head])), call
