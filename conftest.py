"""What ``pytest`` needs to know wherever it is called from."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
CELL_SECONDS = 300


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let ``pytest --nbval notebooks/`` do without further options."""
    option = config.option
    rules = HERE / "tests" / "nbval-sanitise.cfg"
    if getattr(option, "nbval_sanitize_with", "") is None and rules.exists():
        option.nbval_sanitize_with = str(rules)
    if getattr(option, "nbval_cell_timeout", None) == 2000:  # nbval's own default: half an hour of nothing
        option.nbval_cell_timeout = CELL_SECONDS
