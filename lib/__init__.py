"""wikisieve: find bots in Wikipedia's edit stream and sieve their edits out."""

__version__ = "0.1.0"
