"""Where things are: every relative path is relative to the repository's root."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
RECORDINGS = DATA / "00_recording"
STREAM = DATA / "01_stream"
SAMPLE = DATA / "02_sample"
MODEL = DATA / "03_model"
ONLINE = DATA / "04_online"
REPORTS = DATA / "reports"


def resolve(path: str | Path) -> Path:
    """Make a path absolute, from the repository's root and not from the working directory.

    Parameters
    ----------
    path : str or Path
        An absolute path, a path relative to the root, or one that begins with ``~``.

    Returns
    -------
    Path
        The absolute path; it need not exist.

    Examples
    --------
    >>> resolve("data/01_stream") == ROOT / "data" / "01_stream"
    True
    """
    return (ROOT / Path(path).expanduser()).resolve()


def show(path: str | Path) -> str:
    """Write a path as a reader of a report should see it: relative to the root where it lies below it.

    Examples
    --------
    >>> show(ROOT / "data" / "reports")
    'data/reports'
    """
    absolute = resolve(path)
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(absolute)
