"""What ``pytest`` needs to know wherever it is called from."""

import os

import pytest

CELL_SECONDS = 300


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let ``pytest --nbval notebooks/`` do without further options."""
    if (
        getattr(config.option, "nbval_cell_timeout", None) == 2000
    ):  # nbval's own default: half an hour of nothing
        config.option.nbval_cell_timeout = CELL_SECONDS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    """Execute notebook 03 with the BLAS kernels of an old processor: its stored outputs hold on every machine."""
    before = os.environ.get("OPENBLAS_CORETYPE")
    if item.nodeid.startswith("notebooks/03"):
        os.environ["OPENBLAS_CORETYPE"] = "Prescott"
    try:
        return (yield)
    finally:
        os.environ.pop("OPENBLAS_CORETYPE", None)
        if before is not None:
            os.environ["OPENBLAS_CORETYPE"] = before
