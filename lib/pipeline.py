"""The batch run: papermill over the four notebooks, then the reports.

``python -m lib.pipeline`` runs them on the default day; ``--live --minutes 10`` on the live stream.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from lib import artifacts, paths, report
from lib.stream.connection import LIVE_URL

NAMES = ("01_stream", "02_sample", "03_eda_train", "04_online")
CELL_SECONDS = 3600
START_SECONDS = 120
# Kernels talk over files of the user's own instead of unencrypted TCP ports.
KERNEL = Config(KernelManager={"transport": "ipc"})


@dataclass(frozen=True)
class Run:
    """What to run: where the stages' files lie and which parameters differ from the notebooks' defaults."""

    about: str
    folders: dict[str, Path]
    reports: Path
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)


def default_run() -> Run:
    """The notebooks as they are: the default day, offline."""
    folders = dict(zip(NAMES, (paths.STREAM, paths.SAMPLE, paths.MODEL, paths.ONLINE), strict=True))
    return Run(
        "A recorded real day: stages 1 to 3 see it until 14:00 UTC, stage 4 judges the rest.",
        folders,
        paths.REPORTS,
    )


def live_run(minutes: float) -> Run:
    """The same four notebooks against the live stream, in folders of their own.

    Parameters
    ----------
    minutes : float
        How long to listen in all; two thirds to learn from, one third to judge.

    Returns
    -------
    Run
        The run.
    """
    root = paths.DATA / "live"
    folders = {name: root / name for name in ("01_stream", "02_sample", "03_model", "04_online")}
    stream, sample, model, online = folders.values()
    learn, judge = round(minutes * 40), round(minutes * 20)
    given: dict[str, dict[str, Any]] = {
        "01_stream": {"STREAM_URL": LIVE_URL, "MAX_SECONDS": max(learn, 1), "OUT_DIR": str(stream)},
        "02_sample": {"IN_DIR": str(stream), "OUT_DIR": str(sample)},
        "03_eda_train": {"IN_DIR": str(sample), "OUT_DIR": str(model)},
        "04_online": {
            "STREAM_URL": LIVE_URL,
            "MAX_SECONDS": max(judge, 1),
            "MODEL_DIR": str(model),
            "OUT_DIR": str(online),
        },
    }
    about = f"The live stream: {learn} seconds to learn from, {judge} seconds to judge."
    return Run(about, dict(zip(NAMES, folders.values(), strict=True)), root / "reports", given)


def run(plan: Run) -> list[report.Stage]:
    """Execute the notebooks one after another and write their pages; stop at the first that fails.

    Parameters
    ----------
    plan : Run
        What to run.

    Returns
    -------
    list of report.Stage
        A stage for every notebook that was started.
    """
    papermill_engines.register("wikisieve", ProgressEngine)
    # A socket's path must be short, and the home folder may be anywhere.
    os.environ.setdefault("JUPYTER_RUNTIME_DIR", tempfile.mkdtemp(prefix="wikisieve-"))
    plan.reports.mkdir(parents=True, exist_ok=True)
    stages: list[report.Stage] = []
    for name in NAMES:
        stages.append(_run_stage(name, plan))
        report.write_index(plan.reports, stages, plan.about)
        print(f"{name}: {stages[-1].summary} ({stages[-1].seconds:.0f} s)", flush=True)
        if stages[-1].failed:
            break
    return stages


def _run_stage(name: str, plan: Run) -> report.Stage:
    source, output = paths.ROOT / "notebooks" / f"{name}.ipynb", plan.reports / f"{name}.ipynb"
    begin, failure = time.monotonic(), ""
    try:
        papermill.execute_notebook(
            str(source),
            str(output),
            parameters=plan.parameters.get(name, {}),
            engine_name="wikisieve",
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=False,
            config=KERNEL,
            start_timeout=START_SECONDS,
            execution_timeout=CELL_SECONDS,
        )
    except PapermillExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    seconds = time.monotonic() - begin
    report.write_page(output, NAMES)
    title = report.title_of(nbformat.read(output, as_version=4))
    text = failure or summary(name, plan.folders[name])
    return report.Stage(name, title, text, seconds, failed=bool(failure))


def summary(name: str, folder: Path) -> str:
    """Say in one line what went into a stage and what came out, from the file that it left.

    Parameters
    ----------
    name : str
        The notebook's name.
    folder : Path
        The stage's folder.

    Returns
    -------
    str
        One line.
    """
    file = "metrics.json" if name in ("03_eda_train", "04_online") else artifacts.NAME
    return SUMMARIES[name](artifacts.read(folder, f"notebooks/{name}.ipynb", file))


def _stream_summary(made: dict[str, Any]) -> str:
    return (
        f"{made['events']:,} events recorded, {made['duplicates']:,} duplicates, "
        f"{made['canaries']:,} canaries and {made['invalid']:,} invalid left out"
    )


def _sample_summary(made: dict[str, Any]) -> str:
    return (
        f"{made['edits_read']:,} edits in, {made['edits_kept']:,} out: "
        f"{made['users_kept']:,} of {made['users_read']:,} users"
    )


def _train_summary(made: dict[str, Any]) -> str:
    users, blacklist = made["users"], made["blacklist"]
    return (
        f"{users['n']:,} users in ({users['bots']:,} bots), {blacklist['members']:,} on the blacklist out; "
        f"average precision {users['with_name']['average_precision']:.3f}"
    )


def _online_summary(made: dict[str, Any]) -> str:
    return (
        f"{made['edits']:,} edits in, {made['kept']:,} kept, {made['flagged']:,} flagged, {made['dropped']:,} dropped; "
        f"{100 * made['bot_edits_stopped']:.1f} % of the bot edits stopped; "
        f"blacklist {made['blacklist_members_start']:,} → {made['blacklist_members_end']:,}"
    )


SUMMARIES = {
    "01_stream": _stream_summary,
    "02_sample": _sample_summary,
    "03_eda_train": _train_summary,
    "04_online": _online_summary,
}


class ProgressEngine(NBClientEngine):
    """papermill's engine, saying at every cell where it is."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Execute a notebook and print a line per cell."""
        progress = Progress(Path(nb_man.output_path).stem, nb_man.nb)
        start, complete = nb_man.cell_start, nb_man.cell_complete

        def cell_start(cell: Any, cell_index: int = 0, **more: Any) -> None:
            progress.start(cell_index)
            start(cell, cell_index=cell_index, **more)

        def cell_complete(cell: Any, cell_index: int = 0, **more: Any) -> None:
            complete(cell, cell_index=cell_index, **more)
            progress.complete()

        nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
        with progress.ticking():
            return super().execute_managed_notebook(nb_man, kernel_name, **options)


class Progress:
    """Where a notebook is: its place among the four, the cell, the section and the seconds.

    Parameters
    ----------
    name : str
        The notebook's name.
    notebook : nbformat.NotebookNode
        The notebook that is executed.
    """

    def __init__(self, name: str, notebook: nbformat.NotebookNode) -> None:
        self.name = name
        self.code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        self.sections = list(_sections(notebook))
        self.live = sys.stdout.isatty()
        self.label, self.begin = "", time.monotonic()

    def start(self, cell: int) -> None:
        """A cell begins."""
        place = NAMES.index(self.name) + 1 if self.name in NAMES else 1
        number = self.code.index(cell) + 1 if cell in self.code else 0
        if number:
            self.label = (
                f"[{place}/{len(NAMES)}] {self.name}  cell {number}/{len(self.code)}  {self.sections[cell]}"
            )
            self.begin = time.monotonic()
            if self.live:
                self.tick()

    def complete(self) -> None:
        """The cell is over: leave its line."""
        if self.label:
            text = f"{self.label}  {time.monotonic() - self.begin:.1f} s"
            print(f"\r\033[K{text}" if self.live else text, flush=True)
            self.label = ""

    def tick(self) -> None:
        """Show that the cell still runs."""
        if self.label:
            text = f"{self.label}  {time.monotonic() - self.begin:.0f} s …"
            print(f"\r\033[K{text}" if self.live else text, end="" if self.live else "\n", flush=True)

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Tick in the background, every second on a terminal and every ten elsewhere."""
        over = threading.Event()

        def loop() -> None:
            while not over.wait(1 if self.live else 10):
                self.tick()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _sections(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Yield, for every cell, the heading it stands under."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+ +(.+)$", cell.source, re.MULTILINE)):
            heading = found[1]
        yield heading


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Returns
    -------
    int
        0 when all four notebooks ran, 1 when one failed, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lib.pipeline", description="Run the four notebooks and write the reports."
    )
    parser.add_argument(
        "--live", action="store_true", help="against the live stream instead of the default day"
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="how long to listen to the live stream (default: 10)"
    )
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        parser.error(f"--minutes must be above 0. Got {given.minutes:g}.")
    plan = live_run(given.minutes) if given.live else default_run()
    try:
        plan.reports.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(
            f"The reports need a folder that can be written to. Got {paths.show(plan.reports)} "
            f"({error.strerror}). Mend its rights, or copy the repository to a folder of your own.",
            file=sys.stderr,
        )
        return 1
    try:
        stages = run(plan)
    except KeyboardInterrupt:
        print("\nInterrupted. Start it again: every stage that was finished gives the same content.")
        return 130
    print(f"Reports: {paths.show(plan.reports / 'index.html')}")
    for stage in stages:
        print(f"  {stage.name:13} {stage.summary} ({stage.seconds:.0f} s)")
    return int(any(stage.failed for stage in stages))


if __name__ == "__main__":
    sys.exit(main())
