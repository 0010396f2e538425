"""Reports: one self-contained HTML page per executed notebook, and an index; no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter

from lib import artifacts

# Comments are untrusted text: whatever is in one, a reader's browser runs no script and fetches nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CELLS = """
{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock input_group -%}
{%- block in_prompt -%}{%- endblock in_prompt -%}
{%- block output_area_prompt -%}{%- endblock output_area_prompt -%}
"""

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Stage:
    """One line of the index: a stage, what went in and out, and how long it took."""

    name: str
    title: str
    summary: str
    seconds: float
    failed: bool = False


def write_page(notebook: Path, stages: Sequence[str]) -> Path:
    """Write an executed notebook as a page beside it, and return its path.

    Parameters
    ----------
    notebook : Path
        The executed notebook, such as ``data/reports/01_stream.ipynb``.
    stages : sequence of str
        Names of all pages, for the links at the top.
    """
    node = nbformat.read(notebook, as_version=4)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"cells.html.j2": CELLS})],
        template_file="cells.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(node)
    page = _page(title_of(node), body, stages, notebook.stem)
    return artifacts.atomic_write(notebook.with_suffix(".html"), page)


def write_index(folder: Path, stages: Sequence[Stage], about: str) -> Path:
    """Write ``index.html``, a line per stage, and return its path.

    Parameters
    ----------
    folder : Path
        The reports' folder.
    stages : sequence of Stage
        What was run, in order.
    about : str
        A sentence on the data; shown as text.
    """
    rows = "".join(_row(stage) for stage in stages)
    head = "<thead><tr><th>stage</th><th>what went in and out</th><th>seconds</th></tr></thead>"
    versions = ", ".join(f"{name} {number}" for name, number in artifacts.versions().items())
    body = (
        f"<h1>wikisieve</h1><p>{html.escape(about)}</p>"
        f"<table>{head}<tbody>{rows}</tbody></table>"
        f"<p>Made with {html.escape(versions)}.</p>"
    )
    page = _page("wikisieve", body, [stage.name for stage in stages], "index")
    return artifacts.atomic_write(folder / "index.html", page)


def title_of(node: nbformat.NotebookNode) -> str:
    """Return a notebook's first heading, without its marks."""
    first = next((cell.source for cell in node.cells if cell.cell_type == "markdown"), "")
    return first.splitlines()[0].lstrip("# ") if first else "wikisieve"


def _row(stage: Stage) -> str:
    state = '<span class="failed">failed</span> ' if stage.failed else ""
    link = f'<a href="{stage.name}.html">{html.escape(stage.title)}</a>'
    return f"<tr><td>{link}</td><td>{state}{html.escape(stage.summary)}</td><td>{stage.seconds:.0f}</td></tr>"


def _page(title: str, body: str, stages: Sequence[str], here: str) -> str:
    links = "".join(_link(name, here) for name in ("index", *stages))
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{_highlighting()}</style></head>"
        f"<body><nav>{links}</nav><main>{body}</main>"
        "<footer>wikisieve, Apache-2.0. The edits are Wikimedia's public record of recent changes.</footer>"
        "</body></html>\n"
    )


def _link(name: str, here: str) -> str:
    mark = ' class="here"' if name == here else ""
    return f'<a href="{name}.html"{mark}>{name}</a>'


def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default").get_style_defs(".highlight")
