"""Reports stand alone, and what strangers wrote stays text."""

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib import pipeline, plots

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def page(tmp_path):
    outputs = [
        new_output("stream", name="stdout", text=EVIL),
        new_output("display_data", data={"text/html": plots.html_table(pd.DataFrame({"t": [EVIL]}))}),
    ]
    cells = [new_markdown_cell("# A title"), new_code_cell("print(1)", outputs=outputs, execution_count=1)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_stream.ipynb")
    return pipeline.write_page(tmp_path / "01_stream.ipynb", ["01_stream"]).read_text()


def test_text_is_escaped(page):
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") == 2


def test_a_page_fetches_nothing(page):
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http-equiv", "") and 'src="http' not in page


def test_the_index_names_every_stage(tmp_path):
    stages = [
        pipeline.Stage("01_stream", "Stream", "1 in", 2.0),
        pipeline.Stage("02_sample", "Sample", EVIL, 3.0, failed=True),
    ]
    index = pipeline.write_index(tmp_path, stages, "about").read_text()
    assert '<a href="01_stream.html">Stream</a>' in index
    assert index.count('class="failed"') == 1
    assert "<script" not in index
