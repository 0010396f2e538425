"""What several test files share."""

import signal

import matplotlib.pyplot as plt
import pytest

from lib import plots
from lib.infra import broker
from lib.infra.spark import spark_session
from lib.model.classifier import CrossFit
from lib.model.dataset import EditDataset
from tests import synthetic

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it


@pytest.fixture
def pictures():
    """The style of the reports; pictures are closed at the end."""
    plots.style()
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def spark():
    """One Spark session for all tests that need one."""
    with spark_session("tests", "local[2]") as session:
        yield session


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """One Kafka broker for all tests that need one and leave it alive."""
    with broker.Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="session")
def cross():
    return CrossFit(EditDataset(synthetic.sample()))


@pytest.fixture(scope="session")
def people(cross):
    return cross.dataset


@pytest.fixture(scope="session")
def model(cross):
    return synthetic.train(cross)
