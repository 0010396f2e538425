"""The batch run: a line per stage, and a failure with its reason."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import artifacts, paths, pipeline


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one tiny notebook."""

    def make(code):
        cells = [
            new_markdown_cell("# Tiny"),
            new_code_cell("N: int = 1  # how many", metadata={"tags": ["parameters"]}),
            new_markdown_cell("## Count"),
            new_code_cell(code),
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (tmp_path / "notebooks").mkdir()
        nbformat.write(
            new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "notebooks/01_stream.ipynb"
        )
        monkeypatch.setattr(paths, "ROOT", tmp_path)
        monkeypatch.setattr(pipeline, "NAMES", ("01_stream",))
        (tmp_path / "reports").mkdir()
        counts = {"events": 3, "duplicates": 0, "canaries": 1, "invalid": 0}
        artifacts.write(tmp_path / "01_stream", **counts)
        return pipeline.Run("about", tmp_path, {"01_stream": {"N": 2}})

    return make


def test_a_run_shows_a_line_per_stage_and_does_not_change_its_source(project, tmp_path, capsys):
    plan = project("print(N)")
    before = (tmp_path / "notebooks/01_stream.ipynb").read_bytes()
    (stage,) = pipeline.run(plan)
    assert not stage.failed
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/1] 01_stream …"
    assert re.fullmatch(r"  3 events; .*, 1 canaries, .* \(\d+ s\)", lines[1])
    assert (tmp_path / "notebooks/01_stream.ipynb").read_bytes() == before
    executed = nbformat.read(tmp_path / "reports/01_stream.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "2\n"


def test_a_failure_is_in_the_report_and_the_exit_code(project, tmp_path, monkeypatch, capsys):
    plan = project("raise ValueError('PERCENT must be <b>1</b>')")
    monkeypatch.setattr(pipeline, "Run", lambda: plan)
    assert pipeline.main([]) == 1
    assert "ValueError: PERCENT must be <b>1</b>" in capsys.readouterr().out
    index = (tmp_path / "reports/index.html").read_text()
    assert "failed" in index and "PERCENT must be &lt;b&gt;1" in index
    assert "PERCENT must be" in (tmp_path / "reports/01_stream.html").read_text()


def test_reports_that_cannot_be_written_are_refused_before_anything_runs(
    project, tmp_path, monkeypatch, capsys
):
    plan = project("print(N)")
    monkeypatch.setattr(pipeline, "Run", lambda: plan)
    (tmp_path / "reports").rmdir()
    (tmp_path / "reports").touch()
    with pytest.raises(SystemExit):
        pipeline.main([])
    assert "File exists" in capsys.readouterr().err


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
