"""Whether the figures are the same on every machine: notebooks 03 and 04 under other processors' settings.

``make reproduce`` executes them once per setting on the default day and prints a table: the setting, how many cells
differ from the stored outputs, the model's version, the hash of the verdicts. The environment variables stand in for
other machines: OpenBLAS picks its kernels by the processor, numpy and Arrow their vector code, and each adds up in
another order. The same under each Python that is installed, in an environment of its own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat

from tests import oracle

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    **{
        f"OpenBLAS {name}": {"OPENBLAS_CORETYPE": name}
        for name in ("Haswell", "SkylakeX", "Zen", "Sandybridge", "Nehalem", "Prescott")
    },
    **{f"{n} BLAS threads": {"OPENBLAS_NUM_THREADS": str(n), "OMP_NUM_THREADS": str(n)} for n in (1, 2, 4)},
    "numba generic": {"NUMBA_CPU_NAME": "generic"},
    "numpy without SIMD": {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3 X86_V3 X86_V4"},
    "Arrow without SIMD": {"ARROW_USER_SIMD_LEVEL": "NONE"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
    "another locale": {"LC_ALL": "C"},
}
PYTHONS = tuple(f"Python 3.{minor}" for minor in (11, 12, 13, 14))
NEEDS = {"OpenBLAS SkylakeX": "avx512f", "OpenBLAS Haswell": "avx2", "OpenBLAS Zen": "avx2"}


def fits(setting: str) -> bool:
    """Return whether this processor has what a setting needs (OpenBLAS would silently take another kernel)."""
    return NEEDS.get(setting, "flags") in Path("/proc/cpuinfo").read_text().split()


def differing_cells(executed: nbformat.NotebookNode, stored: Path, folders: dict[str, str]) -> list[int]:
    """Return the numbers of the code cells whose texts differ, times and folders apart."""
    mine = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    theirs = nbformat.read(stored, as_version=4).cells
    return [
        number
        for number, (cell, other) in enumerate(zip(mine, theirs, strict=True))
        if cell.cell_type == "code"
        and not {"parameters", "nbval-ignore-output"} & set(cell.metadata.get("tags", []))
        and texts(cell, folders) != texts(other, {})
    ]


def texts(cell: nbformat.NotebookNode, folders: dict[str, str]) -> list[str]:
    """Return what a cell printed and displayed as text, with the folders of the default run."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        text = output.get("text", "") + data.get("text/html", data.get("text/plain", ""))
        for folder, default in folders.items():
            text = text.replace(folder, default)
        found.append(re.sub(r"0x[0-9a-f]+", "0x", text))
    return found


def run(setting: str, sample: Path) -> tuple[str, str, str]:
    """Execute 03 and 04 under a setting.

    Returns
    -------
    differing : str
        Notebooks and cells, such as ``"03:12 04:15"``, or "none".
    version : str
        Of the model.
    verdicts : str
        Hash of the verdict rows.
    """
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, SETTINGS[setting]):
        model, online = Path(name) / "03_model", Path(name) / "04_online"
        folders = {str(model): "data/03_model", str(online): "data/04_online", str(sample): "data/02_sample"}
        plans = {
            "03_eda_train": {"IN_DIR": sample, "OUT_DIR": model},
            "04_online": {"MODEL_DIR": model, "OUT_DIR": online},
        }
        differing = []
        for notebook, parameters in plans.items():
            executed = oracle.execute(notebook, **parameters)  # in a kernel that takes over the environment
            stored = oracle.ROOT / "notebooks" / f"{notebook}.ipynb"
            differing += [f"{notebook[:2]}:{n}" for n in differing_cells(executed, stored, folders)]
        facts = json.loads((model / "manifest.json").read_text())
        return " ".join(differing) or "none", facts["model_version"], oracle.of_verdicts(online)


def in_python(version: str, sample: Path) -> str:
    """Return the table's row of another Python, with the packages of the lock; empty where it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        uv, python = [sys.executable, "-m", "uv"], Path(folder) / "bin" / "python"
        made = [*uv, "venv", "-q", "--clear", "--no-python-downloads", "-p", version.split()[1], folder]
        if subprocess.run(made, stderr=subprocess.DEVNULL, check=False).returncode:
            return ""
        lock = oracle.ROOT / "requirements.lock"
        for what in (["--require-hashes", "-r", lock], ["--no-deps", "-e", oracle.ROOT]):
            subprocess.run([*uv, "pip", "install", "-q", "-p", python, *what], check=True)
        test = [python, "-m", "tests.reproduce", "--sample", sample.resolve(), "--only", "as it is"]
        printed = subprocess.run(test, cwd=oracle.ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout
        return printed.splitlines()[-1].removeprefix("as it is").strip()


def main() -> int:
    """Print the table; return 1 where a setting gives other figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce", description=__doc__)
    parser.add_argument(
        "--sample", type=Path, default=oracle.ROOT / "data" / "02_sample", help="folder of stage 2"
    )
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="these settings, with this Python")
    chosen = parser.parse_args()
    if not any(chosen.sample.glob("edits-*.csv")):
        sys.exit(f"There must be a sample in {chosen.sample}. Got none. Run notebooks 01 and 02 (make run).")
    print(f"{'setting':24} {'cells that differ':20} {'version':14} verdicts", flush=True)
    rows = set()
    for setting in chosen.only or [*SETTINGS, *PYTHONS]:
        if setting in PYTHONS:
            row = in_python(setting, chosen.sample) or "skipped: it is not installed"
        elif fits(setting):
            row = "{:20} {:14} {:.16}".format(*run(setting, chosen.sample))
        else:
            row = f"skipped: this processor has no {NEEDS[setting]}"
        print(f"{setting:24} {row}", flush=True)
        rows.add(row)
    figures = [row for row in rows if not row.startswith("skipped")]
    return int(len(figures) != 1 or not figures[0].startswith("none"))


if __name__ == "__main__":
    sys.exit(main())
