"""The batch run: papermill over the four notebooks, and a report: a self-contained HTML page of each, and an index.

``python -m lib.pipeline`` runs them on the default day; ``--live --minutes 10`` on the live stream.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jinja2 import Environment, FileSystemLoader
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from lib import artifacts, paths
from lib.stream.sse import LIVE_URL

FOLDERS = {
    "01_stream": "01_stream",
    "02_sample": "02_sample",
    "03_eda_train": "03_model",
    "04_online": "04_online",
}
NAMES = tuple(FOLDERS)
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """One line of the index: a stage, what went in and out, and how long it took."""

    name: str
    title: str
    summary: str
    seconds: float
    failed: bool = False


@dataclass(frozen=True)
class Run:
    """What to run: the folder of the stages' folders, and the parameters that differ from the notebooks' defaults.

    By default the notebooks as they are: the default day, offline.
    """

    about: str = "A recorded real day: stages 1 to 3 see it until 14:00 UTC, stage 4 judges the rest."
    root: Path = paths.DATA
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def reports(self) -> Path:
        """The folder of the reports."""
        return self.root / "reports"


def live_run(minutes: float) -> Run:
    """Return the run of the same four notebooks against the live stream, in folders of their own.

    Parameters
    ----------
    minutes : float
        How long to listen in all: two thirds for training, one third for stage 4.
    """
    root = paths.DATA / "live"
    stream, sample, model, online = (str(root / folder) for folder in FOLDERS.values())
    train, judge = max(round(minutes * 40), 1), max(round(minutes * 20), 1)
    parameters: dict[str, dict[str, Any]] = {
        "01_stream": {"STREAM_URL": LIVE_URL, "MAX_SECONDS": train, "OUT_DIR": stream},
        "02_sample": {"IN_DIR": stream, "OUT_DIR": sample},
        "03_eda_train": {"IN_DIR": sample, "OUT_DIR": model},
        "04_online": {"STREAM_URL": LIVE_URL, "MAX_SECONDS": judge, "MODEL_DIR": model, "OUT_DIR": online},
    }
    return Run(f"The live stream: {train} seconds to train on, {judge} seconds to judge.", root, parameters)


def run(plan: Run) -> list[Stage]:
    """Execute the notebooks one after another and write their pages; stop at the first that fails.

    Parameters
    ----------
    plan : Run
        What to run.

    Returns
    -------
    list of Stage
        A stage for every notebook that was started.
    """
    # The kernel is that of this Python, whatever kernels the user has.
    os.environ["JUPYTER_PATH"] = os.path.join(sys.prefix, "share", "jupyter")
    stages: list[Stage] = []
    for number, name in enumerate(NAMES, 1):
        print(f"[{number}/{len(NAMES)}] {name} …", flush=True)
        stages.append(_run_stage(name, plan))
        write_index(plan.reports, stages, plan.about)
        print(f"  {stages[-1].summary} ({stages[-1].seconds:.0f} s)", flush=True)
        if stages[-1].failed:
            break
    return stages


def _run_stage(name: str, plan: Run) -> Stage:
    source, output = paths.ROOT / "notebooks" / f"{name}.ipynb", plan.reports / f"{name}.ipynb"
    start, failure = time.monotonic(), ""
    # Kernels talk over files of the user's own instead of unencrypted TCP ports. A socket's path must be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        try:
            papermill.execute_notebook(
                str(source),
                str(output),
                parameters=plan.parameters.get(name, {}),
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar=sys.stderr.isatty(),
                config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
                start_timeout=120,
                execution_timeout=3600,
            )
        except PapermillExecutionError as error:
            failure = f"{error.ename}: {error.evalue}"
    seconds = time.monotonic() - start
    write_page(output, NAMES)
    text = failure or summary(nbformat.read(output, as_version=4))
    title = title_of(nbformat.read(source, as_version=4))
    return Stage(name, title, text, seconds, failed=bool(failure))


def write_page(notebook: Path, names: Sequence[str]) -> Path:
    """Write an executed notebook as a page beside it, and return its path.

    Parameters
    ----------
    notebook : Path
        The executed notebook, such as ``data/reports/01_stream.ipynb``.
    names : sequence of str
        Names of all pages, for the links at the top.
    """
    node = nbformat.read(notebook, as_version=4)
    exporter = HTMLExporter(extra_template_paths=[str(TEMPLATES)], template_file="report_cells.html.j2")
    body, _ = exporter.from_notebook_node(node)
    lines = [line for cell in node.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    contents = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    return _write(notebook.with_suffix(".html"), names, title=title_of(node), body=body, contents=contents)


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
    content = {"about": about, "stages": stages, "versions": artifacts.versions()}
    return _write(folder / "index.html", [stage.name for stage in stages], title="wikisieve", **content)


def title_of(node: nbformat.NotebookNode) -> str:
    """Return a notebook's first heading, without its marks."""
    first = next((cell.source for cell in node.cells if cell.cell_type == "markdown"), "")
    return first.splitlines()[0].lstrip("# ") if first else "wikisieve"


def _write(path: Path, names: Sequence[str], **content: Any) -> Path:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        names=["index", *names],
        here=path.stem,
        highlighting=HtmlFormatter().get_style_defs(".highlight"),
        **content,
    )
    return artifacts.atomic_write(path, page)


def summary(node: nbformat.NotebookNode) -> str:
    """Return what an executed notebook printed last: what went in and what came out."""
    outputs = [output for cell in node.cells for output in cell.get("outputs", ())]
    printed = [output.text for output in outputs if output.output_type == "stream"]
    return " ".join(printed[-1].split()) if printed else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Returns
    -------
    int
        0 when all four notebooks ran, 1 when one failed, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        "python -m lib.pipeline", description="Run the notebooks, write reports."
    )
    parser.add_argument("--live", action="store_true", help="the live stream instead of the default day")
    parser.add_argument("--minutes", type=float, default=10, help="how long to listen to it (default: 10)")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0. Got {options.minutes:g}.")
    plan = live_run(options.minutes) if options.live else Run()
    plan.reports.mkdir(parents=True, exist_ok=True)
    try:
        stages = run(plan)
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again: every finished stage makes the same content.")
        return 130
    print(f"Reports: {paths.show(plan.reports / 'index.html')}")
    return int(any(stage.failed for stage in stages))


if __name__ == "__main__":
    sys.exit(main())
