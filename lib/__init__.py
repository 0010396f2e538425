"""wikisieve: find bots in Wikipedia's edit stream and filter their edits out."""

__version__ = "0.1.0"
