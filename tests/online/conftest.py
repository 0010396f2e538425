"""What the tests of stage 4 share: a model, a recording, and one run over all of it."""

import pytest
import world


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """What stage 3 leaves; stage 4 only reads it."""
    return world.train(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def here(kafka, spark):
    """Options of `world.judge`: the broker and the session that the tests share."""
    return {"bootstrap": kafka.bootstrap, "session": spark}


@pytest.fixture(scope="session")
def raws():
    return world.make_events()


@pytest.fixture(scope="session")
def recording(raws, tmp_path_factory):
    return world.record(tmp_path_factory.mktemp("recording") / "day.jsonl", raws)


@pytest.fixture(scope="session")
def short(raws, tmp_path_factory):
    """The beginning of the recording."""
    return world.record(tmp_path_factory.mktemp("short") / "day.jsonl", raws[:300])


@pytest.fixture(scope="session")
def whole(here, model_dir, recording, tmp_path_factory):
    """Folder and metrics of one run over the whole recording."""
    out = tmp_path_factory.mktemp("whole")
    return out, world.judge(out, model_dir, recording, **here)
