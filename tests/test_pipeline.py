"""The batch run: a line per stage, a failure with its reason, and pages on which untrusted text stays text."""

import json
import re
import tempfile

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib import paths, pipeline, plots

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one tiny notebook with one cell of code."""

    def make(code):
        parameters = new_code_cell("N: int = 1  # how many", metadata={"tags": ["parameters"]})
        cells = [new_markdown_cell("# Tiny"), parameters, new_markdown_cell("## Count"), new_code_cell(code)]
        (tmp_path / "notebooks").mkdir()
        notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, tmp_path / "notebooks/01_stream.ipynb")
        monkeypatch.setattr(paths, "ROOT", tmp_path)
        monkeypatch.setattr(pipeline, "NAMES", ("01_stream",))
        (tmp_path / "reports").mkdir()
        plan = pipeline.Run("about", tmp_path, {"01_stream": {"N": 2}})
        monkeypatch.setattr(pipeline, "Run", lambda: plan)
        return plan

    return make


def test_a_run_shows_a_line_per_stage_and_does_not_change_its_source(project, tmp_path, capsys, monkeypatch):
    broken, far = (
        tmp_path / "jupyter" / "kernels" / "python3",
        tmp_path / ("x" * 100),
    )  # too long for a socket
    broken.mkdir(parents=True)
    far.mkdir()
    (broken / "kernel.json").write_text(
        json.dumps({"argv": ["/gone"], "display_name": "x", "language": "python"})
    )
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    project("print(f'{N} events in →\\n{N} out')")
    before = (tmp_path / "notebooks/01_stream.ipynb").read_bytes()
    assert pipeline.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/1] 01_stream …"
    assert re.fullmatch(r"  2 events in → 2 out \(\d+ s\)", lines[1])
    assert (tmp_path / "notebooks/01_stream.ipynb").read_bytes() == before
    executed = nbformat.read(tmp_path / "reports/01_stream.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "2 events in →\n2 out\n"


def test_a_failure_is_in_the_report_and_the_exit_code(project, tmp_path, capsys):
    project(f"raise ValueError({EVIL!r})")
    assert pipeline.main([]) == 1
    assert f"ValueError: {EVIL}" in capsys.readouterr().out
    index = (tmp_path / "reports/index.html").read_text()
    assert '<a href="01_stream.html">Tiny</a>' in index
    assert index.count('class="failed"') == 1
    assert "ValueError: &lt;script&gt;" in index
    for page in (index, (tmp_path / "reports/01_stream.html").read_text()):
        assert "<script" not in page and "<img src=x" not in page


def test_untrusted_text_in_a_page_is_escaped_and_nothing_is_fetched(tmp_path):
    table = {"text/html": plots.html_table(pd.DataFrame({"title": [EVIL]}))}
    outputs = [new_output("stream", name="stdout", text=EVIL), new_output("display_data", data=table)]
    picture = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": EVIL}})
    cells = [new_markdown_cell("# A title\n\n## 1. A part")]
    cells.append(new_code_cell("print(1)", outputs=[*outputs, picture], execution_count=1))
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_stream.ipynb")
    page = pipeline.write_page(tmp_path / "01_stream.ipynb", ["01_stream"]).read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3
    assert "default-src 'none'" in page
    assert '<a href="#1.-A-part">' in page and 'id="1.-A-part"' in page and "No description" not in page
    assert "http://" not in page.replace("http-equiv", "") and 'src="http' not in page


def test_the_live_run_has_folders_of_its_own():
    plan = pipeline.live_run(10)
    assert plan.root == paths.DATA / "live"
    written = [given["OUT_DIR"] for given in plan.parameters.values()]
    assert len(set(written)) == 4 and all(folder.startswith(str(plan.root)) for folder in written)
    assert plan.parameters["01_stream"]["MAX_SECONDS"] + plan.parameters["04_online"]["MAX_SECONDS"] == 600


def test_minutes_must_be_above_zero(capsys):
    with pytest.raises(SystemExit):
        pipeline.main(["--live", "--minutes", "0"])
    assert "must be above 0" in capsys.readouterr().err
