"""The project's folders; every relative path is relative to the repository's root."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
RECORDINGS = DATA / "00_recording"


def resolve(path: str | Path) -> Path:
    """Return a path as absolute, from the repository's root and not from the working directory.

    Parameters
    ----------
    path : str or Path
        An absolute path, a path relative to the root, or one that begins with ``~``.

    Examples
    --------
    >>> resolve("data/01_stream") == ROOT / "data" / "01_stream"
    True
    """
    return (ROOT / Path(path).expanduser()).resolve()


def show(path: str | Path) -> str:
    """Return a path as text for a reader: relative to the root where it lies below it.

    Examples
    --------
    >>> show(ROOT / "data" / "reports")
    'data/reports'
    """
    absolute = resolve(path)
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(absolute)
