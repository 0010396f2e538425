"""Whether the figures are the same on every machine: notebooks 03 and 04 under other processors' settings.

``make reproduce`` executes them once per setting on the default day and prints a table: the setting, how many cells
differ from the stored outputs, the model's version, the hash of the verdicts. The environment variables stand in for
other machines: OpenBLAS picks its kernels by the processor, numpy and Arrow their vector code, and each adds up in
another order.
"""

import argparse
import json
import os
import re
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


def run(setting: str, sample: Path) -> tuple[list[str], str, str]:
    """Execute 03 and 04 under a setting.

    Returns
    -------
    differing : list of str
        Notebook and cell, such as ``"03:12"``.
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
        return differing, facts["model_version"], oracle.of_verdicts(online)


def main() -> int:
    """Print the table; return 1 where a setting gives other figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce", description=__doc__)
    parser.add_argument(
        "--sample", type=Path, default=oracle.ROOT / "data" / "02_sample", help="folder of stage 2"
    )
    parser.add_argument(
        "--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), help="these settings"
    )
    chosen = parser.parse_args()
    if not any(chosen.sample.glob("edits-*.csv")):
        sys.exit(
            f"There must be a sample in {chosen.sample}. Got none. Run notebooks 01 and 02 first (make run)."
        )
    results = set()
    print(f"{'setting':24} {'cells that differ':20} {'version':14} verdicts", flush=True)
    for setting in chosen.only:
        if not fits(setting):
            print(f"{setting:24} skipped: this processor has no {NEEDS[setting]}", flush=True)
            continue
        differing, version, verdicts = run(setting, chosen.sample)
        results.add((tuple(differing), version, verdicts))
        print(f"{setting:24} {' '.join(differing) or 'none':20} {version:14} {verdicts[:16]}", flush=True)
    return int(len(results) != 1 or bool(next(iter(results))[0]))


if __name__ == "__main__":
    sys.exit(main())
