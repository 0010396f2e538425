"""The look: one style, one colour for humans and one for bots in all four notebooks."""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown, display

# Okabe and Ito's palette (2008) keeps apart under every common colour blindness.
HUMAN = "#0072B2"
BOT = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
YELLOW = "#E69F00"
GREY = "#7F7F7F"
KINDS = {"human": HUMAN, "bot": BOT}
VERDICTS = {"kept": HUMAN, "flagged": YELLOW, "dropped": BOT}


def style() -> None:
    """Set the look of every picture that follows."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=[HUMAN, BOT, GREEN, YELLOW, PURPLE, GREY],
        rc={
            "figure.figsize": (9, 4),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#E5E5E5",
            "legend.frameon": False,
            "svg.hashsalt": "wikisieve",
        },
    )


def show(figure: plt.Figure, text: str) -> None:
    """Show a picture and, below it, the sentence that says what it says.

    Parameters
    ----------
    figure : matplotlib Figure
        The picture; closed afterwards.
    text : str
        The finding, computed from the data of the picture.
    """
    display(figure)
    plt.close(figure)
    finding(text)


def finding(text: str) -> None:
    """Show a computed sentence; whatever is in it is shown as text, never as HTML or Markdown."""
    display(HTML(f"<p><b>{html.escape(text)}</b></p>"))


def table(frame: pd.DataFrame, caption: str = "") -> None:
    """Show a table; every cell is escaped, for titles, names and comments are written by strangers."""
    styled = html_table(frame, caption)
    display(HTML(styled))


def html_table(frame: pd.DataFrame, caption: str = "") -> str:
    """Return a table as HTML with every cell escaped.

    Examples
    --------
    >>> "<script>" in html_table(pd.DataFrame({"title": ["<script>alert(1)</script>"]}))
    False
    """
    body = frame.to_html(escape=True, border=0, na_rep="", index=not isinstance(frame.index, pd.RangeIndex))
    return f"<p>{html.escape(caption)}</p>{body}" if caption else body


def note(text: str) -> None:
    """Show Markdown of our own; never pass it text from the stream."""
    display(Markdown(text))


def share(part: int, whole: int, interval: tuple[float, float]) -> str:
    """Write a share with its count and its 95 % interval.

    Examples
    --------
    >>> share(3, 10, (0.07, 0.65))
    '30.0 % (3 of 10; 95 % interval 7.0 to 65.0 %)'
    """
    low, high = interval
    value = 100 * part / whole if whole else 0.0
    return f"{value:.1f} % ({part:,} of {whole:,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
