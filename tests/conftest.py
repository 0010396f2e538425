"""What several test files share."""

import nbformat
import pytest

from lib import paths
from lib import spark as spark_session


@pytest.fixture(scope="session")
def spark():
    """One Spark session for all tests that need one."""
    with spark_session.running("tests", "local[2]") as session:
        yield session


@pytest.fixture(scope="session")
def notebooks():
    """The four notebooks as committed, by name."""
    files = sorted((paths.ROOT / "notebooks").glob("0*.ipynb"))
    return {file.stem: nbformat.read(file, as_version=4) for file in files}
