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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the tests for ``pytest -n 2 --dist loadgroup``, the longest groups first.

    The four notebooks run in one process, as each reads what the one before wrote; tests that share a Spark session or
    a broker run in another; all others go by their file.
    """
    if not hasattr(config, "workerinput"):
        return
    order = {"notebooks": 0, "servers": 1}
    for item in items:
        file = item.nodeid.partition("::")[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        group = (
            "notebooks"
            if file.startswith("notebooks/")
            else "servers"
            if fixtures & {"spark", "kafka"}
            else file
        )
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: order.get(item.get_closest_marker("xdist_group").args[0], 2))
