"""The oracle: SHA-256 of everything that the four stages decide, against the values that are stored.

``make oracle`` runs the notebooks on the default day and, where ``../shared/data`` is there, stages 3 and 4 on its
captures, and compares. ``make oracle WRITE=1`` stores what came out: only a change that is meant to change results does
that, and its commit states which figure changed and why. Only files of the contract are read, so the oracle does not
depend on how the stages work inside.
"""

import argparse
import gzip
import hashlib
import json
import sqlite3
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_suffix(".json")
CAPTURES = ROOT.parent / "shared" / "data"
# What differs from run to run: times, speeds, versions, paths, and the hash of a file that holds a time.
VOLATILE = {"created", "seconds", "events_per_second", "latency_seconds", "versions"}
VOLATILE |= {"inputs", "outputs", "runs", "topics"}


def execute(notebook: str, **parameters: object) -> nbformat.NotebookNode:
    """Execute a notebook and return it."""
    return papermill.execute_notebook(
        ROOT / "notebooks" / f"{notebook}.ipynb",
        None,
        {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()},
        cwd=ROOT / "notebooks",
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--log-level=CRITICAL"],  # else each kernel warns that it talks over TCP
    )


def digest(lines: list[str]) -> str:
    """Return the SHA-256 of some lines of text."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def stable(content: object) -> object:
    """Return JSON without what differs from run to run."""
    if isinstance(content, dict):
        return {name: stable(value) for name, value in content.items() if name not in VOLATILE}
    return content


def of_metrics(folder: Path) -> str:
    """Return the hash of ``metrics.json`` without times and versions."""
    return digest([json.dumps(stable(json.loads((folder / "metrics.json").read_text())), sort_keys=True)])


def of_ledger(folder: Path) -> str:
    """Return the hash of the listed users with their scores."""
    with sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True) as ledger:
        rows = ledger.execute("SELECT user, score FROM blacklist ORDER BY user").fetchall()
    return digest([repr(row) for row in rows])


def of_verdicts(folder: Path) -> str:
    """Return the hash of all verdict rows, in any order."""
    table = pq.read_table(folder / "verdicts")
    return digest(sorted(map(repr, zip(*(column.to_pylist() for column in table.columns), strict=True))))


def of_recording(folder: Path) -> str:
    """Return the hash of the recorded events."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("events-*.jsonl.gz")):
        whole.update(gzip.decompress(file.read_bytes()))
    return whole.hexdigest()


def of_csv(folder: Path) -> str:
    """Return the hash of the sample's rows, in any order and without the headers."""
    rows = [row for file in folder.glob("edits-*.csv") for row in file.read_bytes().decode().split("\n")[1:]]
    return digest(sorted(row for row in rows if row))


def stages_3_and_4(sample: Path, folder: Path, **stream: object) -> dict[str, str]:
    """Train on a sample, judge a stream, and return the hashes."""
    execute("03_eda_train", IN_DIR=sample, OUT_DIR=folder / "03")
    execute("04_online", MODEL_DIR=folder / "03", OUT_DIR=folder / "04", **stream)
    return {
        "model metrics": of_metrics(folder / "03"),
        "model blacklist": of_ledger(folder / "03"),
        "verdicts": of_verdicts(folder / "04"),
        "blacklist": of_ledger(folder / "04"),
        "metrics": of_metrics(folder / "04"),
    }


def default_day(folder: Path) -> dict[str, str]:
    """Return the hashes of the four stages on the default day."""
    execute("01_stream", OUT_DIR=folder / "01")
    execute("02_sample", IN_DIR=folder / "01", OUT_DIR=folder / "02")
    hashes = {"recording": of_recording(folder / "01"), "sample": of_csv(folder / "02")}
    return hashes | stages_3_and_4(folder / "02", folder)


def captures(folder: Path) -> dict[str, str]:
    """Return the hashes of stages 3 and 4: trained on edits of 2024, judging all wikis of 2021."""
    sample = folder / "sample"
    sample.mkdir()
    source = CAPTURES / "edits-2024-11-12-enwiki-dewiki.csv.gz"
    (sample / source.name).symlink_to(source)
    return stages_3_and_4(sample, folder, RECORDING=CAPTURES / "firehose-2021-10-08.jsonl.gz")


def main() -> int:
    """Compare, or store with ``--write``; return 1 where something differs."""
    parser = argparse.ArgumentParser("python -m tests.oracle", description="Compare what the stages decide.")
    parser.add_argument("--write", action="store_true", help="store what comes out")
    parser.add_argument("--only", choices=["day", "captures"], help="a part of it")
    chosen = parser.parse_args()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="oracle-") as folder:
        if chosen.only != "captures":
            (Path(folder) / "day").mkdir()
            found |= {f"day: {k}": v for k, v in default_day(Path(folder) / "day").items()}
        if chosen.only != "day" and CAPTURES.exists():
            (Path(folder) / "captures").mkdir()
            found |= {f"captures: {k}": v for k, v in captures(Path(folder) / "captures").items()}
        elif chosen.only != "day":
            print(f"SKIPPED: the captures are not there ({CAPTURES.name} beside the project).")
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if chosen.write:
        STORED.write_text(json.dumps(stored | found, indent=2) + "\n")
    for name, value in found.items():
        known = stored.get(name)
        verdict = "not stored" if known is None else "equal" if known == value else "DIFFERS"
        print(f"{verdict:10}  {name:26} {value[:16]}")
    return int(not chosen.write and any(stored.get(name, value) != value for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
