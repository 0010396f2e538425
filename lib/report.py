"""The reports: a self-contained page of each executed notebook, an index of what came out, a comparison of runs."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from nbconvert import HTMLExporter
from papermill.execute import ERROR_MARKER_TAG
from pygments.formatters import HtmlFormatter

from lib import artifacts

RECORD = "run.json"
MAX_COMPARED = 20  # runs side by side
TEMPLATES = Path(__file__).parent
NUMBERS = tomllib.loads((TEMPLATES / "report_numbers.toml").read_text(encoding="utf-8"))["number"]


def publish(folder: Path, run: Mapping[str, Any], reports: Path, keep: bool = True) -> None:
    """Write a run's pages into its folder, and show them in the reports' folder: all of them, or those of before.

    Parameters
    ----------
    folder : Path
        The run's folder, beside those of the other runs, with the executed notebooks.
    run : mapping
        What ``run.json`` has: ``about``, ``started``, ``commit``, ``versions``, and ``stages``, each with its ``name``,
        ``title``, ``summary``, ``seconds``, ``failed``, ``parameters``, ``metrics``, and the ``run`` that executed it.
    reports : Path
        The folder that shows the latest run, and a comparison with those before. It is replaced.
    keep : bool, default True
        Whether the run's folder stays, for later comparisons.
    """
    names = [stage["name"] for stage in run["stages"]]
    for name in names:
        write_page(folder / f"{name}.ipynb", names)
    write_index(folder, run)
    artifacts.write_json(folder / RECORD, run)
    metrics = {stage["name"]: stage["metrics"] for stage in run["stages"]}
    artifacts.write_json(folder / "metrics.json", metrics)
    new = reports.with_name(f".{reports.name}")
    shutil.rmtree(new, ignore_errors=True)  # left by a run that was killed here
    (shutil.copytree if keep else shutil.move)(folder, new)
    write_index(new, run, compared=write_comparison(new, folder.parent))
    shutil.rmtree(reports, ignore_errors=True)
    new.rename(reports)


def write_page(notebook: Path, names: Sequence[str]) -> Path:
    """Write an executed notebook as a page beside it, and return its path.

    Parameters
    ----------
    notebook : Path
        The executed notebook, such as ``01_stream.ipynb``.
    names : sequence of str
        Names of all pages, for the links at the top.
    """
    node = nbformat.read(notebook, as_version=4)
    exporter = HTMLExporter(extra_template_paths=[str(TEMPLATES)], template_file="report_cells.html.j2")
    body, _ = exporter.from_notebook_node(node)
    content = {"title": title_of(node), "node": node, "body": body}
    return _write(notebook.with_suffix(".html"), "report.html.j2", ["index", *names], **content)


def write_index(folder: Path, run: Mapping[str, Any], compared: int = 0) -> Path:
    """Write ``index.html``, numbers and pictures that link to their places and a line per stage; return its path.

    Parameters
    ----------
    folder : Path
        The run's folder, or the reports'.
    run : mapping
        As for :func:`publish`.
    compared : int, default 0
        How many runs the comparison beside it shows; 0 if there is none.
    """
    names = [stage["name"] for stage in run["stages"]]
    nodes = {name: nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in names}
    metrics = _flatten([run], "metrics").iloc[0]
    content = {"title": "wikisieve", "run": run, "nodes": nodes, "metrics": metrics, "compared": compared}
    links = ["index", *names, "comparison"] if compared else ["index", *names]
    return _write(folder / "index.html", "report_index.html.j2", links, **content)


def write_comparison(folder: Path, runs: Path) -> int:
    """Write ``comparison.html``: what differs in the runs' parameters, their metrics side by side and over time.

    Parameters
    ----------
    folder : Path
        The reports' folder.
    runs : Path
        The folder of the runs' folders, beside it.

    Returns
    -------
    int
        How many runs are compared; 0 for one alone, which gets no page.
    """
    files = sorted(runs.glob(f"*/{RECORD}"))[-MAX_COMPARED:]
    if len(files) < 2:
        return 0
    records = [json.loads(file.read_text(encoding="utf-8")) | {"folder": file.parent.name} for file in files]
    given = pd.json_normalize(records).drop(columns=["stages", "started", "folder"])
    given = given.join(_flatten(records, "parameters"))
    differing = given.loc[:, given.nunique() > 1]  # what a run did not come to is no difference
    metrics = _flatten(records, "metrics")
    content = {"title": "Runs", "runs": records, "differing": differing, "metrics": metrics}
    _write(folder / "comparison.html", "report_comparison.html.j2", ["index", "comparison"], **content)
    return len(files)


def _flatten(runs: Sequence[Mapping[str, Any]], field: str) -> pd.DataFrame:
    """Return a field of the runs' stages as a table of texts and numbers: a row per run, a column per dotted name."""
    return pd.json_normalize([{stage["name"]: stage[field] for stage in run["stages"]} for run in runs])


def title_of(node: nbformat.NotebookNode) -> str:
    """Return a notebook's first heading, without its marks."""
    own = (cell for cell in node.cells if ERROR_MARKER_TAG not in cell.metadata.get("tags", []))
    first = next((cell.source for cell in own if cell.cell_type == "markdown"), "")
    return first.splitlines()[0].lstrip("# ") if first else "wikisieve"


def summary(node: nbformat.NotebookNode) -> str:
    """Return what an executed notebook printed last: what went in and what came out."""
    outputs = [output for cell in node.cells for output in cell.get("outputs", ())]
    printed = [output.text for output in outputs if output.output_type == "stream"]
    return " ".join(printed[-1].split()) if printed else ""


def _write(path: Path, template: str, names: Sequence[str], **content: Any) -> Path:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    styles = ("default", "github-dark")
    highlighting = [HtmlFormatter(style=style).get_style_defs(".highlight") for style in styles]
    content |= {"names": names, "here": path.stem, "numbers": NUMBERS, "highlighting": highlighting}
    return artifacts.atomic_write(path, environment.get_template(template).render(**content))
