"""The batch run: a line per stage, what is unchanged is skipped, and pages on which untrusted text stays text."""

import json
import re
import tempfile
from functools import partial
from unittest.mock import DEFAULT, MagicMock

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill import execute_notebook

from lib import artifacts, params, paths, pipeline, plots, report

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
COMMON = 'PERCENT: int = 20  # share\nOUT_DIR: str = "data/{}"  # out\n'
PARAMETERS = {name: COMMON.format(name) for name in ("01_stream", "02_sample")}
PARAMETERS["02_sample"] += 'IN_DIR: str = "data/01_stream"  # in'
WRITE = """
from pathlib import Path
folder = Path("..") / OUT_DIR
folder.mkdir(parents=True, exist_ok=True)
(folder / "manifest.json").write_text('{"events": %d}' % PERCENT)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two tiny notebooks; `make` writes one with a cell of code, `run` runs them all."""

    def make(code="print(PERCENT)", name="01_stream"):
        parameters = new_code_cell(PARAMETERS[name], metadata={"tags": ["parameters"]})
        cells = [new_markdown_cell("# Tiny"), parameters]
        cells.append(new_code_cell(WRITE + code, metadata={"tags": ["index"]}))
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, tmp_path / f"notebooks/{name}.ipynb")

    rules = {name: params.RULES["02_sample"][name] for name in ("IN_DIR", "PERCENT", "OUT_DIR")}
    kept = {name: {key: rules[key] for key in rules if key in text} for name, text in PARAMETERS.items()}
    monkeypatch.setattr(params, "RULES", kept)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())  # a run changes it
    monkeypatch.setattr(pipeline, "NAMES", tuple(PARAMETERS))
    monkeypatch.setattr(pipeline, "Run", partial(pipeline.Run, "about", tmp_path / "data"))
    for name in PARAMETERS:
        make(name=name)
    return make


@pytest.fixture
def run(project, capsys):
    """Run the pipeline; return its exit code, and what it printed."""
    return lambda *settings: (pipeline.main(settings), "".join(capsys.readouterr()))


def test_a_run_shows_a_line_per_stage_and_does_not_change_its_source(project, run, tmp_path, monkeypatch):
    broken, far = tmp_path / "jupyter/kernels/python3", tmp_path / ("x" * 100)  # too long for a socket
    broken.mkdir(parents=True)
    far.mkdir()
    (broken / "kernel.json").write_text('{"argv": ["/gone"], "display_name": "x", "language": "python"}')
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    monkeypatch.setattr(artifacts, "scratch", artifacts.scratch.__wrapped__)
    check = "import tempfile; assert '/.wikisieve-' in tempfile.gettempdir()\n"
    project(check + "print(f'{PERCENT} events in →\\n{PERCENT} out')")
    before = (tmp_path / "notebooks/01_stream.ipynb").read_bytes()
    lines = r"\[1/2\] 01_stream: 20 events in → 20 out \(\d+ s\)\n\[2/2\] 02_sample: 20 "
    assert re.match(lines, run()[1])
    assert (tmp_path / "notebooks/01_stream.ipynb").read_bytes() == before


@pytest.mark.slow
def test_what_is_unchanged_is_skipped_and_runs_are_compared(project, run, tmp_path):
    reports = tmp_path / "data/reports"
    assert run()[0] == 0 and run()[1].count("unchanged, skipped") == 2
    assert len(list((tmp_path / "data/runs").iterdir())) == 1 and not (reports / "comparison.html").exists()
    project("print('other')", "02_sample")
    assert "01_stream: unchanged" in (text := run()[1]) and "02_sample: other" in text
    (tmp_path / "my.yaml").write_text("02_sample: {PERCENT: 5}")
    assert "01_stream: skipped\n[2/2] 02_sample: other" in run("PARAMS=my.yaml", "FROM=02")[1]
    assert "01_stream: 7 " in (text := run("PERCENT=7")[1]) and "02_sample: other" in text
    assert json.loads((reports / "metrics.json").read_text())["02_sample"] == {"events": 7}
    page = (reports / "comparison.html").read_text()
    assert "<h1>4 runs</h1>" in page
    assert "<th>02_sample.PERCENT</th><td>20</td><td>20</td><td>5</td><td>7</td>" in page
    assert 'aria-label="events recorded, from the oldest run to the newest: 20, 20, 20, 7"' in page
    assert all((reports / link).exists() for link in re.findall(r'href="([^"#]+)"', page))
    assert 'href="01_stream.html#cell-id=counts"><b>7</b> events' in (reports / "index.html").read_text()


@pytest.mark.slow
def test_a_run_that_was_cut_off_shows_the_old_reports_and_is_resumed(project, run, tmp_path, monkeypatch):
    bar = r"\[2/2\] 02_sample [ █▏▎▍▌▋▊▉]{20} \d\d:\d\d "
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert re.search(bar + "and about ", run()[1])
    old = {file: file.read_bytes() for file in (tmp_path / "data/reports").iterdir()}
    with monkeypatch.context() as context:
        cut_off = MagicMock(wraps=execute_notebook, side_effect=[DEFAULT, KeyboardInterrupt])
        context.setattr(pipeline.papermill, "execute_notebook", cut_off)
        assert run("PERCENT=5")[0] == 130
    assert {file: file.read_bytes() for file in (tmp_path / "data/reports").iterdir()} == old
    assert "01_stream: unchanged" in (text := run("PERCENT=5")[1]) and "02_sample: 5 " in text
    assert re.search(bar + r"of about \d+ s, \d+ s to the end", text)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("PERCENTAGE=5", "must be one of PERCENT, FROM or PARAMS. Got PERCENTAGE=5. Check the spelling"),
        ("OUT_DIR=x", "Got OUT_DIR=x. Check the spelling; folders are set for one notebook each"),
        ("PERCENT=x", "PERCENT must be of type int: an integer from 1 to 100. Got 'x'"),
        ("PERCENT=101", "PERCENT must be an integer from 1 to 100. Got 101."),
        ("FROM=5", "FROM must be one of 01, 02"),
        ("PARAMS=gone.yaml", "PARAMS must be a YAML file of sections, each called as a notebook"),
    ],
)
def test_a_wrong_setting_stops_it_before_anything_runs(run, tmp_path, setting, words):
    code, text = run(setting)
    assert code == 1 and words in text and not (tmp_path / "data").exists()


@pytest.mark.parametrize("evil", [f"raise ValueError({EVIL!r} * 100)", "import os; os.kill(os.getpid(), 9)"])
def test_a_failure_is_in_the_report_and_the_exit_code(project, run, tmp_path, evil):
    project(evil)
    code, text = run()
    assert code == 1
    assert re.search(r"01_stream: failed, (ValueError: <script>alert|DeadKernelError: Kernel died)", text)
    assert "the whole error: data/runs/" in text and len(text) < 600
    index = (tmp_path / "data/reports/index.html").read_text()
    assert '<a href="01_stream.html">Tiny</a>' in index and "02_sample.html" not in index
    assert index.count('class="failed"') == 2
    for page in (index, (tmp_path / "data/reports/01_stream.html").read_text()):
        assert "<script" not in page and "<img src=x" not in page and "<title>" in page


def test_the_index_takes_ten_numbers_and_five_pictures_from_the_notebooks():
    files = [paths.ROOT / "notebooks" / f"{name}.ipynb" for name in pipeline.NAMES]
    cells = [cell for file in files for cell in nbformat.read(file, as_version=4).cells]
    assert {number["cell"] for number in report.NUMBERS} <= {cell.id for cell in cells}
    tagged = [cell for cell in cells if "index" in cell.metadata.get("tags", [])]
    assert len(report.NUMBERS) == 10 and ["image/png" in str(cell.outputs) for cell in tagged] == [True] * 5


def test_untrusted_text_in_a_page_is_escaped_and_nothing_is_fetched(tmp_path):
    table = {"text/html": plots.html_table(pd.DataFrame({"title": [EVIL]}))}
    outputs = [new_output("stream", name="stdout", text=EVIL), new_output("display_data", data=table)]
    picture = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": EVIL}})
    cells = [new_markdown_cell("# A title\n\n## 1. A part")]
    cells.append(new_code_cell("print(1)", outputs=[*outputs, picture], execution_count=1))
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_stream.ipynb")
    page = report.write_page(tmp_path / "01_stream.ipynb", ["01_stream"]).read_text()
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
