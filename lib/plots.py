"""The look: one style, one colour for humans and one for bots in all four notebooks."""

from __future__ import annotations

import html
import math
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import HTML, DisplayHandle, display
from matplotlib.axes import Axes

from lib.stats import clopper_pearson

# Okabe and Ito's palette (2008) stays distinguishable under every common colour blindness.
HUMAN = "#0072B2"
BOT = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
YELLOW = "#E69F00"
GREY = "#7F7F7F"
KINDS = {"human": HUMAN, "bot": BOT}
_FIRST, _LAST = -8_520_336_000_000, 8_835_955_200_000  # 1700 and 2250: pandas counts nanoseconds in 64 bits
VERDICTS = {"kept": HUMAN, "flagged": YELLOW, "dropped": BOT}
PANEL_SECONDS = 0.5
LINE_SECONDS = 15.0
_BARS = "▁▂▃▄▅▆▇█"


def safe_label(text: object) -> str:
    """Return an untrusted text as every font can show it: up to 32 characters of printable ASCII.

    Examples
    --------
    >>> safe_label("a$b\\nc 和平")
    'a$b?c ??'
    """
    return re.sub(r"[^ -~]", "?", str(text))[:32]


def time_axis(axes: Axes, note: str = "") -> None:
    """Label a horizontal axis of event times with hours or days, with the date of the first, and with a note."""
    locator = mdates.AutoDateLocator(minticks=3, maxticks=8)  # with 5 at least, four hours get none
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, show_offset=False))
    date = f", from {mdates.num2date(axes.dataLim.x0):%Y-%m-%d} on" if np.isfinite(axes.dataLim.x0) else ""
    axes.set_xlabel(f"event time (UTC){date}" + (note and f".{note}"))


def time_inliers(times: pd.Series) -> pd.Series:
    """Return which times a picture can show: one clock that was wrong would squeeze all others into a line.

    Parameters
    ----------
    times : Series of int64
        Milliseconds since the epoch.

    Returns
    -------
    Series of bool
        False for what is further from the middle half than ten times its width, and for what no axis can show.

    Examples
    --------
    >>> time_inliers(pd.Series([0, 10_000, 20_000, 30_000, 9_000_000])).tolist()
    [True, True, True, True, False]
    """
    low, high = (float(times.quantile(share)) for share in (0.25, 0.75))
    width = max(high - low, 60_000.0)
    return times.between(max(low - 10 * width, _FIRST), min(high + 10 * width, _LAST))


def outlier_note(n: int) -> str:
    """Return a sentence on the events that a picture over time does not show; empty if there are none."""
    return f" Not in the picture: {n:,} whose time lies far from the others'." if n else ""


def truncate(text: object, max_length: int = 500) -> str:
    """Return a text cut to a length; the longest comment that MediaWiki takes is left whole.

    Examples
    --------
    >>> truncate("whole"), truncate("x" * 2000, 3)
    ('whole', 'xxx… (2,000 characters)')
    """
    line = str(text)
    return line if len(line) <= max_length else f"{line[:max_length]}… ({len(line):,} characters)"


def style() -> None:
    """Set the look of every picture that follows, whatever the user's matplotlibrc has."""
    plt.rcdefaults()
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=[HUMAN, BOT, GREEN, YELLOW, PURPLE, GREY],
        rc={
            "figure.figsize": (9, 4),
            "figure.constrained_layout.use": True,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#E5E5E5",
            "legend.frameon": False,
            "text.parse_math": False,  # a dollar in an untrusted text is a dollar
        },
    )


def show(figure: plt.Figure, text: str) -> None:
    """Show a picture and, below it, its finding.

    Parameters
    ----------
    figure : matplotlib Figure
        The picture; closed afterwards.
    text : str
        The finding, computed from the data of the picture.
    """
    display(figure, metadata={"image/png": {"alt": text}})
    plt.close(figure)
    show_text(text)


def show_text(text: str) -> None:
    """Show a computed sentence; whatever is in it is shown as text, never as HTML or Markdown."""
    display(HTML(f"<p><b>{html.escape(text)}</b></p>"))


def table(frame: pd.DataFrame, caption: str = "") -> None:
    """Show a table; every cell is escaped, because titles, names and comments are untrusted text."""
    display(HTML(html_table(frame, caption)))


def show_fields(content: Mapping[str, object], names: str) -> None:
    """Show some fields of a manifest, a row each; `names` is separated by spaces."""
    table(pd.DataFrame({"value": {name: content[name] for name in names.split()}}, dtype="object"))


def html_table(frame: pd.DataFrame, caption: str = "") -> str:
    """Return a table as HTML with every cell escaped, text to the left and numbers to the right.

    Examples
    --------
    >>> "<script>" in html_table(pd.DataFrame({"title": ["<script>alert(1)</script>"]}))
    False
    """
    plain = frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)  # numbers of rows
    shown = frame if plain else frame.rename_axis(str(frame.index.name or "")).reset_index()
    sides = ["left" if _is_text(shown.iloc[:, i]) else "right" for i in range(shown.shape[1])]
    head = _row("th", shown.columns, sides)
    body = "".join(_row("td", cells, sides) for cells in shown.itertuples(index=False, name=None))
    title = f"<p>{html.escape(truncate(caption))}</p>" if caption else ""
    return f"{title}<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _is_text(column: pd.Series) -> bool:
    """A column of words; figures that are already written out (12.5 %) stay with the numbers."""
    texts = [value for value in column if isinstance(value, str)]
    return bool(texts) and not all(value[:1].isdigit() or value[:1] in "-−" for value in texts if value)


def _row(tag: str, cells: Iterable[object], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    return (
        "<tr>"
        + "".join(f'<{tag} style="text-align: {side}">{_cell(value)}</{tag}>' for value, side in pairs)
        + "</tr>"
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:,.6g}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None or value is pd.NA or value is pd.NaT else html.escape(truncate(value))


class Panel(AbstractContextManager["Panel"]):
    """Shows how far something is, in one output that is updated in place; a context manager.

    Where nobody reads along (papermill, nbval, nbconvert, a script) a line is printed every 15 seconds instead. A
    frontend with a person in front sends with each cell that it may ask for input (``allow_stdin`` in Jupyter's
    messages); the others have nobody to ask.

    Parameters
    ----------
    values : callable
        Returns what is shown, a row each. The first is a count, whose rate is shown, too.
    """

    def __init__(self, values: Callable[[], Mapping[str, Any]]) -> None:
        self.values = values
        request: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)()
        self._rates: deque[float] = deque(maxlen=40)
        first = values()
        self._count, self._shown_at = next(iter(first.values())), time.monotonic()
        self._output: DisplayHandle | None = None
        if request.get("content", {}).get("allow_stdin"):
            self._output = display(self._picture(first), raw=True, display_id=True)

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._output.update(self._picture(self.values()), raw=True)

    def update(self) -> None:
        """Show the values, if it is time to."""
        seconds = time.monotonic() - self._shown_at
        if seconds < (LINE_SECONDS if self._output is None else PANEL_SECONDS):
            return
        values = self.values()
        count = next(iter(values.values()))
        self._rates.append((count - self._count) / seconds)
        self._count, self._shown_at = count, time.monotonic()
        if self._output is not None:
            self._output.update(self._picture(values), raw=True)
        else:
            line = ", ".join(f"{name} {value}" for name, value in self._rows(values).items())
            print(f"{datetime.now(UTC):%H:%M:%S} UTC: {line}", flush=True)

    def _rows(self, values: Mapping[str, Any]) -> dict[str, str]:
        rate = {"per second": f"{self._rates[-1]:,.0f}"} if self._rates else {}
        texts = {name: f"{n:,}" if isinstance(n, int) else n for name, n in values.items()}
        return {name: truncate(text, 90) for name, text in texts.items()} | rate

    def _picture(self, values: Mapping[str, Any]) -> dict[str, str]:
        lines = [f"{name:20}{value}" for name, value in self._rows(values).items()]
        lines[-1] += f" {sparkline(self._rates)}"
        shown = "\n".join(f"<bdi>{html.escape(line)}</bdi>" for line in lines)
        return {"text/plain": "\n".join(lines), "text/html": f"<pre>{shown}</pre>"}


def sparkline(values: Collection[float]) -> str:
    """Return numbers as a line of bars, the largest as the highest one.

    Examples
    --------
    >>> sparkline([0, 1, 2, 8])
    '▁▂▃█'
    """
    top = max(values, default=0) or 1
    return "".join(_BARS[round(7 * max(value, 0) / top)] for value in values)


def pluralize(number: float, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> pluralize(1, "edit"), pluralize(1.5, "edit"), pluralize(1_234_567, "edit")
    ('1 edit', '1.5 edits', '1,234,567 edits')
    >>> pluralize(float("nan"), "edit")  # the median of nothing
    'no edits'
    """
    digits = f"{number:,.1f}".removesuffix(".0").replace("nan", "no")
    return f"{digits} {noun}" if number == 1 else f"{digits} {noun}s"


def format_bounded(rates: Mapping[str, Any], name: str, ending: str = "") -> str:
    """Return a share of :func:`lib.stats.human_rates` with its upper bound (95 %)."""
    return f"{100 * rates[name + ending]:.2f} % (at most {100 * rates[f'{name}_upper95{ending}']:.2f})"


def format_share(part: int, whole: int, interval: tuple[float, float] | None = None) -> str:
    """Return a share with its count and its 95 % interval.

    Parameters
    ----------
    part, whole : int
        ``part`` of ``whole``.
    interval : tuple of float, optional
        From 0 to 1; by default the exact binomial one (Clopper and Pearson).

    Examples
    --------
    >>> format_share(3, 10)
    '30.0 % (3 of 10; 95 % interval 6.7 to 65.2 %)'
    """
    low, high = clopper_pearson(part, whole) if interval is None else interval
    value = 100 * part / whole if whole else 0.0
    return f"{value:.1f} % ({part:,} of {whole:,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
