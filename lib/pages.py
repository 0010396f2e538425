"""Reports: one HTML page per executed notebook, and an index. They stand alone: no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter

from lib import manifest

# Whatever a stranger wrote into a title or a comment, the browser of a report's reader runs no script and fetches nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CELLS = """
{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock input_group -%}
{%- block in_prompt -%}{%- endblock in_prompt -%}
{%- block output_area_prompt -%}{%- endblock output_area_prompt -%}
"""

STYLE = """
:root { --ink: #1c2733; --soft: #5b6773; --line: #dfe5ea; --paper: #fff; --accent: #0072b2; --tint: #f5f8fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--tint); color: var(--ink); font: 16px/1.6 Georgia, 'Times New Roman', serif; }
nav, footer { font: 14px/1.5 system-ui, sans-serif; color: var(--soft); max-width: 62rem; margin: 0 auto; padding: 1rem 2rem; }
nav a { margin-right: 1.2rem; text-decoration: none; color: var(--accent); }
nav a.here { color: var(--ink); font-weight: 600; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 2rem 3rem; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.25; margin: 1.8em 0 .5em; }
h1 { margin-top: .6em; } h2 { border-bottom: 1px solid var(--line); padding-bottom: .2em; }
a.anchor-link { display: none; }
a { color: var(--accent); }
img { max-width: 100%; height: auto; }
pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; background: var(--tint); padding: .7em 1em; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
details.code { margin: .4em 0; font-family: system-ui, sans-serif; }
details.code > summary { cursor: pointer; color: var(--soft); font-size: 12px; width: fit-content; }
table { border-collapse: collapse; font: 14px/1.4 system-ui, sans-serif; margin: .8em 0; display: block; overflow-x: auto; }
th, td { padding: .3em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid var(--soft); }
.failed { color: #b3261e; font-weight: 600; } .ok { color: #00704f; }
.jp-RenderedText[data-mime-type*="stderr"] pre { background: #fdf1f0; }
"""


@dataclass(frozen=True)
class Stage:
    """One line of the index: a stage, what went in and out, and how long it took."""

    name: str
    title: str
    summary: str
    seconds: float
    failed: bool = False


def write_page(notebook: Path, stages: Sequence[str]) -> Path:
    """Turn an executed notebook into a page beside it.

    Parameters
    ----------
    notebook : Path
        The executed notebook, such as ``data/reports/01_stream.ipynb``.
    stages : sequence of str
        Names of all pages, for the links at the top.

    Returns
    -------
    Path
        The page: the same name with the ending ``.html``.
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
    return manifest.atomic_write(notebook.with_suffix(".html"), page)


def write_index(folder: Path, stages: Sequence[Stage], about: str) -> Path:
    """Write ``index.html``: a line per stage and what was run.

    Parameters
    ----------
    folder : Path
        The reports' folder.
    stages : sequence of Stage
        What was run, in order.
    about : str
        A sentence on the data; shown as text.

    Returns
    -------
    Path
        The index.
    """
    rows = "".join(_row(stage) for stage in stages)
    head = "<thead><tr><th>stage</th><th>what went in and out</th><th>seconds</th></tr></thead>"
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions().items())
    body = (
        f"<h1>wikisieve</h1><p>{html.escape(about)}</p>"
        f"<table>{head}<tbody>{rows}</tbody></table>"
        f"<p>Made with {html.escape(versions)}.</p>"
    )
    page = _page("wikisieve", body, [stage.name for stage in stages], "index")
    return manifest.atomic_write(folder / "index.html", page)


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
        "<footer>wikisieve, Apache-2.0. The edits are Wikimedia's public record of recent changes.</footer></body></html>\n"
    )


def _link(name: str, here: str) -> str:
    mark = ' class="here"' if name == here else ""
    return f'<a href="{name}.html"{mark}>{name}</a>'


def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default").get_style_defs(".highlight")
