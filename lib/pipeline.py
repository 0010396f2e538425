"""The batch run: papermill over the four notebooks; what is unchanged is skipped, and every run keeps its reports.

``python -m lib.pipeline PERCENT=5 FROM=03 PARAMS=my.yaml`` runs them on the default day; ``--live --minutes 10`` on the
live stream.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import read_yaml_file
from traitlets.config import Config

from lib import artifacts, params, paths, report
from lib.params import ParameterError
from lib.stream.sse import LIVE_URL

NAMES = tuple(params.RULES)
STARTS = {name[:2]: name for name in NAMES}
# What these name is not in a file whose digest would tell that it has changed.
NEVER_SKIPPED = ("STREAM_URL", "SOCKET", "RELAY", "RESUME")
INPUTS = ("IN_DIR", "MODEL_DIR", "RECORDING")
# What does not change what a stage makes: caches and locks, a broker's own files, and what writes the reports.
IGNORED = (".*", "__pycache__", "kafka", "pipeline.py", "report*")
LIB = Path(__file__).parent
# A kernel that is interrupted says so at length.
OPTIONS = {"start_timeout": 120, "execution_timeout": 3600, "extra_arguments": ["--log-level=CRITICAL"]}
KERNEL = {"transport": "ipc", "shutdown_wait_time": 2.0}
ABOUT = "A recorded real day: stages 1 to 3 see it until 14:00 UTC, stage 4 judges the rest."
MAX_ERROR = 300  # characters on the terminal and in the index

Record = dict[str, Any]  # as JSON has it
Parameters = dict[str, Record]


@dataclass(frozen=True)
class Run:
    """What to run: the folder of the stages' folders, and the parameters that differ from the notebooks' defaults.

    By default the notebooks as they are: the default day, offline. ``first`` is the stage before which nothing is run,
    and from which on everything is.
    """

    about: str = ABOUT
    root: Path = paths.DATA
    parameters: Parameters = field(default_factory=dict)
    first: str = ""


def live_run(minutes: float) -> Run:
    """Return the run of the same four notebooks against the live stream, in folders of their own.

    Parameters
    ----------
    minutes : float
        How long to listen in all: two thirds for training, one third for stage 4.
    """
    root = paths.DATA / "live"
    folders = (root / Path(defaults(name)["OUT_DIR"]).name for name in NAMES)
    stream, sample, model, online = map(str, folders)
    train, judge = max(round(minutes * 40), 1), max(round(minutes * 20), 1)
    parameters: Parameters = {
        "01_stream": {"STREAM_URL": LIVE_URL, "MAX_SECONDS": train, "OUT_DIR": stream},
        "02_sample": {"IN_DIR": stream, "OUT_DIR": sample},
        "03_eda_train": {"IN_DIR": sample, "OUT_DIR": model},
        "04_online": {"STREAM_URL": LIVE_URL, "MAX_SECONDS": judge, "MODEL_DIR": model, "OUT_DIR": online},
    }
    about = f"The live stream: {train} seconds to train on, {judge} seconds to judge."
    return Run(about, root, parameters, first=NAMES[0])


def configure(plan: Run, settings: Sequence[str]) -> Run:
    """Return a run with what its user has set, checked before anything runs.

    Parameters
    ----------
    plan : Run
        The run without it.
    settings : sequence of str
        ``NAME=value`` for a parameter, which goes to every notebook that has it; ``PARAMS=file.yaml`` for a file with
        a section per notebook, and in it papermill's own format; ``FROM=03`` for the first stage to run.

    Raises
    ------
    ParameterError
        For an unknown name, a wrong type, or a value that breaks its rule.
    """
    given = dict(setting.partition("=")[::2] for setting in settings)
    first, file = given.pop("FROM", plan.first[:2]), given.pop("PARAMS", "")
    if first and first not in STARTS:
        raise ParameterError(f"FROM must be one of {', '.join(STARTS)}. Got {first}.")
    known = {name: defaults(name) for name in NAMES}
    sections = _read_sections(file) if file else {}
    parameters = {name: plan.parameters.get(name, {}) | sections.get(name, {}) for name in NAMES}
    names = sorted(set().union(*known.values()) - {"IN_DIR", "MODEL_DIR", "OUT_DIR"})
    for key, text in given.items():
        if key not in names:
            raise ParameterError(
                f"A setting must be one of {', '.join(names)}, FROM or PARAMS. Got {key}={text}. Check the spelling; "
                "folders are set for one notebook each, in its section of a file: PARAMS=my.yaml."
            )
        for name in [name for name in NAMES if key in known[name]]:
            parameters[name][key] = text if isinstance(known[name][key], str) else _literal(text)
    for name in NAMES:
        params.check(name, known[name] | parameters[name])
    own = {"STREAM_URL", "RECORDING", "SINCE", "UNTIL"} & set().union(*parameters.values())
    if own and plan.about == ABOUT:
        plan = replace(plan, about="Events of your own choice: each page shows its parameters.")
    return replace(plan, parameters=parameters, first=STARTS.get(first, ""))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _read_sections(file: str) -> Parameters:
    try:
        content = read_yaml_file(str(paths.resolve(file)))
        if set(content) <= set(NAMES) and all(isinstance(section, dict) for section in content.values()):
            return content
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, AttributeError) as error:
        content = error
    raise ParameterError(
        f"PARAMS must be a YAML file of sections, each called as a notebook ({', '.join(NAMES)}), with NAME: value in "
        f"it. Got {file}: {textwrap.shorten(str(content), MAX_ERROR)}"
    )


def defaults(name: str) -> dict[str, Any]:
    """Return a notebook's parameters and their defaults."""
    found = papermill.inspect_notebook(str(_source(name)))
    return {key: ast.literal_eval(parameter["default"]) for key, parameter in found.items()}


def _source(name: str) -> Path:
    return paths.ROOT / "notebooks" / f"{name}.ipynb"


def run(plan: Run) -> list[Record]:
    """Execute the notebooks one after another, stop at the first that fails, and then show their pages.

    Parameters
    ----------
    plan : Run
        What to run.

    Returns
    -------
    list of dict
        For every notebook that was executed, or skipped because nothing has changed, what :func:`report.publish`
        shows of it.
    """
    # The kernel is that of this Python, whatever kernels the user has. One with Spark is killed at its end (ipykernel
    # waits for its children, and never sees that the JVM is gone), so its temporary files are ours to remove.
    os.environ |= {"JUPYTER_PATH": f"{sys.prefix}/share/jupyter", "TMPDIR": str(artifacts.scratch())}
    start = datetime.now(UTC)
    folder = plan.root / "runs" / f"{start:%Y-%m-%dT%H%M%S}.{start.microsecond // 1000:03}Z"
    folder.mkdir(parents=True)
    stages: list[Record] = []
    for name in NAMES:
        stages += _stage(name, plan, folder)
        if stages and stages[-1]["failed"]:
            break
    git = f"git -C {shlex.quote(str(paths.ROOT))} describe --always --dirty 2>/dev/null"
    content: Record = {"about": plan.about, "started": f"{start:%Y-%m-%d %H:%M} UTC", "stages": stages}
    content |= {"commit": subprocess.getoutput(git), "versions": artifacts.versions()}
    is_new = any(stage["run"] == folder.name for stage in stages)
    report.publish(folder, content, plan.root / "reports", keep=is_new)
    return stages


def _stage(name: str, plan: Run, folder: Path) -> list[Record]:
    """Execute a stage, or take what an earlier run has kept of it: nothing, if no run has and FROM skips it."""
    values = defaults(name) | plan.parameters.get(name, {})
    outputs, fingerprint = paths.resolve(values["OUT_DIR"]), _fingerprint(name, values)
    label = f"[{NAMES.index(name) + 1}/{len(NAMES)}] {name}"
    if plan.first > name or not (plan.first or any(values.get(key) for key in NEVER_SKIPPED)):
        left = _digest(outputs)
        for file, record in _records(plan.root, name):
            notebook, same = file.with_suffix(".ipynb"), plan.first or record["fingerprint"] == fingerprint
            if same and record["outputs"] == left and notebook.exists():
                shutil.copy2(file, folder)
                shutil.copy2(notebook, folder)
                reason = "skipped" if plan.first else f"unchanged, skipped; FROM={name[:2]} runs it again"
                print(f"{label}: {reason}", flush=True)
                return [record]
    if plan.first > name:
        return []
    record = _execute(name, plan, folder, label) | {"parameters": values, "metrics": {}}
    if not record["failed"]:
        for file in (outputs / artifacts.NAME, outputs / "metrics.json"):
            record["metrics"] |= json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        record |= {"fingerprint": fingerprint, "outputs": _digest(outputs)}
        artifacts.write_json(folder / f"{name}.json", record)
    return [record]


def _records(root: Path, name: str) -> list[tuple[Path, Record]]:
    """Return what the runs have kept of a stage, the newest first."""
    files = sorted(root.glob(f"runs/*/{name}.json"), reverse=True)
    return [(file, json.loads(file.read_text(encoding="utf-8"))) for file in files]


def _fingerprint(name: str, values: Mapping[str, Any]) -> Record:
    """Return all that a stage's outputs depend on: parameters, code, versions, and what it reads."""
    cells = [cell.source for cell in nbformat.read(_source(name), as_version=4).cells]
    inputs = {key: _digest(paths.resolve(values[key])) for key in INPUTS if values.get(key)}
    code = {"notebook": hashlib.sha256("\n".join(cells).encode()).hexdigest(), "lib": _digest(LIB)}
    return {"parameters": values, "inputs": inputs, "versions": artifacts.versions(), **code}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in [path, *sorted(path.rglob("*"))]:
        parts = file.relative_to(path).parts
        if file.is_file() and not any(fnmatch(part, pattern) for part in parts for pattern in IGNORED):
            digest.update(f"{artifacts.sha256(file)} {'/'.join(parts)}\n".encode())
    return digest.hexdigest()


def _execute(name: str, plan: Run, folder: Path, label: str) -> Record:
    """Execute a stage's notebook into the run's folder, with one line on the terminal: at first a bar, if it is one."""
    output, is_terminal = folder / f"{name}.ipynb", sys.stderr.isatty()
    rest = [_records(plan.root, stage)[:1] for stage in NAMES if stage >= name]
    last = [record["seconds"] for records in rest for _, record in records]
    left = f"of about {last[0]:.0f} s, {sum(last):.0f} s to the end" if rest[0] else "and about {remaining}"
    bar = {"desc": label, "leave": False, "bar_format": f"{{desc}} {{bar:20}} {{elapsed}} {left}"}
    print("" if is_terminal else label, end="", flush=True)
    start = time.monotonic()
    error = _run_notebook(name, output, plan.parameters.get(name, {}), bar if is_terminal else False)
    seconds = time.monotonic() - start
    node = nbformat.read(output, as_version=4)
    text = error or report.summary(node)
    line = f"{': failed, ' if error else ': '}{text} ({seconds:.0f} s)"
    print(label + line if is_terminal else line, flush=True)
    if error:
        print(f"  the whole error: {paths.show(folder)}/{name}.html#papermill-error-cell", flush=True)
    about = {"name": name, "title": report.title_of(node), "summary": text, "seconds": seconds}
    return about | {"run": folder.name, "failed": bool(error)}


def _run_notebook(name: str, output: Path, parameters: Record, bar: Record | bool) -> str:
    """Execute a notebook; return its error as one line, empty when there was none."""
    source = _source(name)
    # Kernels talk over files of the user's own instead of unencrypted TCP ports. One with Spark is terminated after
    # half of the time: it has nothing left to do.
    config = Config(KernelManager=KERNEL | {"ip": f"{artifacts.scratch()}/kernel"})
    options = {**OPTIONS, "kernel_name": "python3", "cwd": source.parent, "config": config}
    try:
        papermill.execute_notebook(source, output, parameters, progress_bar=bar, **options)
    except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
        kind, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
        if kind in ("ImportError", "ModuleNotFoundError") and "PYTHONPATH" in os.environ:
            text = f"{text}. Packages of PYTHONPATH={os.environ['PYTHONPATH']!r} come before ours: unset it."
        return textwrap.shorten(f"{kind}: {text}", MAX_ERROR, placeholder=" …")
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Returns
    -------
    int
        0 when all four notebooks ran, 1 when one failed or a parameter is wrong, 130 when interrupted.
    """
    parser = argparse.ArgumentParser("python -m lib.pipeline", description="Run notebooks, write reports.")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="a parameter, or FROM=, or PARAMS=")
    parser.add_argument("--live", action="store_true", help="the live stream instead of the default day")
    parser.add_argument("--minutes", type=float, default=10, help="how long to listen to it (default: 10)")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0. Got {options.minutes:g}.")
    try:
        plan = configure(live_run(options.minutes) if options.live else Run(), options.settings)
        stages = run(plan)
    except ParameterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again: finished stages are skipped (live: with FROM= and its number).")
        return 130
    print(f"Reports: {paths.show(plan.root / 'reports' / 'index.html')}")
    return int(any(stage["failed"] for stage in stages))


if __name__ == "__main__":
    sys.exit(main())
