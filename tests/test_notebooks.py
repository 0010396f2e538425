"""Static rules: the notebooks as committed are clean, alike and portable."""

import ast
import re

import pytest

from lib import paths, pipeline

NAMES = pipeline.NAMES
LIMIT = 1_500_000


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def text_of(output):
    data = output.get("data", {})
    plain = [output.get("text", "")] + [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join("".join(part) for part in plain)


@pytest.mark.parametrize("name", NAMES)
def test_one_parameters_cell_before_all_other_code(notebooks, name):
    tagged = [cell for cell in notebooks[name].cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert code(notebooks[name])[0] is tagged[0]
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"[A-Z_]+: (int|str|float|bool) = [^#=]+  # .+", line), line


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_checked_next(notebooks, name):
    assert f'params.check("{name}", globals())' in code(notebooks[name])[1].source


@pytest.mark.parametrize("name", NAMES)
def test_kernel_is_python3(notebooks, name):
    assert notebooks[name].metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_executed_from_top_to_bottom(notebooks, name):
    counts = [cell.execution_count for cell in code(notebooks[name])]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_no_error_no_widget_no_stderr(notebooks, name):
    for output in outputs(notebooks[name]):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert not any("widget" in kind for kind in output.get("data", {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_definitions(notebooks, name):
    for cell in code(notebooks[name]):
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in nodes), (
            cell.source
        )


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine(notebooks, name):
    sources = [cell.source for cell in notebooks[name].cells]
    texts = sources + [text_of(output) for output in outputs(notebooks[name])]
    for text in texts:
        assert str(paths.ROOT) not in text
        assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|work|Users|var|opt)/", text), text[:300]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_size(notebooks, name):
    cells = notebooks[name].cells
    assert len({cell.id for cell in cells}) == len(cells)
    assert (paths.ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_prose_comes_with_evidence(notebooks, name):
    cells = notebooks[name].cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "papermill" not in notebooks[name].metadata
    prose = sum(cell.cell_type == "markdown" for cell in cells)
    assert prose >= len(code(notebooks[name])) / 2
