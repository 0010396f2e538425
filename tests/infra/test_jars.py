"""A jar has the hash of its lock, or it is refused."""

import hashlib
import tomllib
from pathlib import Path

import pyspark
import pytest

from lib.infra import InfraError, jars

LOCK = """
[[dependencies]]
groupId = "org.example"
artifactId = "thing"
version = "1.0"
packaging = "jar"
sha256 = "{sha256}"
"""


@pytest.fixture
def thing(tmp_path, monkeypatch):
    """One jar, locked, in a repository of its own."""
    content = b"a jar"
    folder = tmp_path / "jars" / "thing"
    folder.mkdir(parents=True)
    (folder / "jgo.lock.toml").write_text(LOCK.format(sha256=hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(jars, "FOLDER", tmp_path / "jars")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    path = tmp_path / "m2" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Every connection goes through a proxy that is not there."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def fetch():
    """Fetch without what was fetched before."""
    return jars.fetch.__wrapped__("thing")


def test_a_jar_that_is_there_needs_no_network(thing, no_network):
    assert fetch() == (thing,)


def test_a_tampered_jar_is_refused_and_the_error_says_what_to_delete(thing):
    thing.write_bytes(b"a jar.")
    with pytest.raises(InfraError) as error:
        fetch()
    assert f"Delete {thing} and run again" in str(error.value)
    assert "SHA-256" in str(error.value)


def test_a_missing_jar_without_network_is_one_sentence(thing, no_network):
    thing.unlink()
    with pytest.raises(InfraError, match="must be downloaded once.*Connect to the network and run again"):
        fetch()
    assert not list(thing.parents[4].glob(".wikisieve-*")), "nothing half done is left"


def test_a_repository_that_cannot_be_written_is_one_sentence(thing, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "file" / "m2"))
    with pytest.raises(InfraError, match="must be a folder that can be written to.*M2_REPO"):
        fetch()


def test_jars_are_downloaded_into_an_empty_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    try:
        paths = jars.fetch.__wrapped__("default-day")
    except InfraError as error:
        pytest.skip(f"The download was NOT tested: {error}")
    assert paths == tuple(tmp_path / jars.path_in_repository(jar) for jar in jars.read_lock("default-day"))


@pytest.mark.parametrize("purpose", jars.PURPOSES)
def test_each_lock_was_made_from_the_jgo_toml_beside_it_and_names_no_host(purpose):
    text, lock = ((jars.FOLDER / purpose / name).read_text() for name in ("jgo.toml", "jgo.lock.toml"))
    made_from = tomllib.loads(lock)["metadata"]["spec_hash"]
    assert hashlib.sha256(text.encode()).hexdigest().startswith(made_from), "run make lock"
    assert all(len(jar["sha256"]) == 64 for jar in jars.read_lock(purpose))
    assert "://" not in text + lock


def test_the_connector_is_sparks_and_brings_nothing_that_pyspark_has():
    connector = jars.read_lock("connector")
    assert (
        jars.path_in_repository(connector[0]).name == f"spark-sql-kafka-0-10_2.13-{pyspark.__version__}.jar"
    )
    has = {path.name.rpartition("-")[0] for path in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    assert not {jar["artifactId"] for jar in connector} & has
