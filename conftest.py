"""What ``pytest`` needs to know wherever it is called from."""

import pytest

CELL_SECONDS = 300


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let ``pytest --nbval notebooks/`` do without further options."""
    if (
        getattr(config.option, "nbval_cell_timeout", None) == 2000
    ):  # nbval's own default: half an hour of nothing
        config.option.nbval_cell_timeout = CELL_SECONDS
