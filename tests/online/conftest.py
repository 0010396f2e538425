"""What the tests of stage 4 share."""

import pytest
import world


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """What stage 3 leaves; stage 4 only reads it."""
    return world.train(tmp_path_factory.mktemp("model"))
