"""The set-up continues where it was interrupted, does nothing twice, and names in one sentence what is wrong."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import bootstrap
from lib import paths

FILES = {
    "lib/__init__.py": "",
    "lib/infra/__init__.py": "",
    "lib/infra/java.py": "import os, sys; __name__ == '__main__' and sys.exit(os.environ.get('NO_JAVA'))",
    "lib/infra/jars.py": "print('jars')",
    "ipykernel/kernelapp.py": "",
    "pyspark/daemon.py": "",
}
PYPROJECT = """
[project]
name = "small"
version = "1"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools]
packages = ["lib", "lib.infra"]
package-dir = { "" = "." }
"""


@pytest.fixture
def small(tmp_path):
    """A project with our set-up and a lock of one package."""
    (tmp_path / "requirements.lock").write_text(locked("six") + locked("uv"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("bootstrap.py", "Makefile"):
        shutil.copy(paths.ROOT / name, tmp_path)
    return tmp_path


def locked(package):
    """Return the lines of a package in our lock."""
    lock = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
    return re.search(rf"^{package}==.*\n(?:    .*\n)+", lock, re.MULTILINE)[0]


def base_python():
    """Return the Python that virtual environments of this one are made from."""
    return os.path.realpath(sys.executable)


def make(folder, *arguments, **environment):
    """Run make with this Python."""
    command = ["make", "--no-print-directory", f"PYTHON={base_python()}", *arguments]
    environment = os.environ | {"MAKEFLAGS": ""} | environment
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_set_up_that_was_killed_continues_and_a_second_one_does_nothing(small):
    killed = subprocess.Popen(
        [base_python(), "bootstrap.py"], cwd=small, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while not (small / ".venv" / "bin" / "python").exists():
        assert killed.poll() is None, "the set-up ended by itself"
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    first = make(small, "setup", NO_JAVA="No Java.")
    if "package index does not answer" in first.stderr:
        pytest.skip(f"A whole set-up was NOT tested: {first.stderr}")
    assert first.stderr.splitlines()[:2] == [
        "No Java.",
        "Set-up stopped at lib.infra.java. Correct that and run the same again.",
    ]
    again = make(small, "setup")
    assert again.returncode == 0, again.stderr
    assert "Making" not in again.stdout, "the environment was complete"
    imported = [small / ".venv" / "bin" / "python", "-I", "-c", "import six, lib; print(lib.__file__)"]
    where = subprocess.run(imported, cwd="/", capture_output=True, text=True, check=True).stdout
    assert where.strip() == str(small / "lib" / "__init__.py")
    assert list(small.glob("lib/infra/__pycache__/jars.*.pyc")), "what is imported is compiled"
    paths_of = "import sys; print(*sys.path, sep='\\n')"
    found = subprocess.check_output([*imported[:3], paths_of], text=True).splitlines()
    site = next(place for place in found if place.endswith("site-packages"))
    assert found.index(str(small)) < found.index(site), "IPython puts the working directory between"
    assert "Nothing to be done" in make(small, "setup").stdout


def test_an_old_python_gets_one_sentence():
    program = (
        "import runpy, sys; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (default)';"
        f"runpy.run_path({str(paths.ROOT / 'bootstrap.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Python must be 3.11 or newer. Got 3.9.2. Install a newer one")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("minor", [6, 8])
def test_an_old_python_can_read_that_far(minor):
    ast.parse((paths.ROOT / "bootstrap.py").read_text(), feature_version=(3, minor))


def test_no_python_at_all_gets_one_sentence(small, tmp_path):
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("sh", "make", "rm"):
        (path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        ["make", "setup"], cwd=small, capture_output=True, text=True, env={"PATH": str(path)}, check=False
    )
    assert done.stderr.splitlines()[0].startswith("Python must be 3.11 or newer. Got none on PATH.")


def test_a_python_that_is_named_is_used_and_an_environment_whose_python_is_gone_is_made_again(small):
    for name in (".complete", ".packages"):
        (small / ".venv").mkdir(exist_ok=True)
        (small / ".venv" / name).touch()
    named = small / "named"
    named.write_text("#!/bin/sh\necho named $1\n")
    named.chmod(0o755)
    assert make(small, f"PYTHON={named}", "setup").stdout == "named bootstrap.py\n"
    assert not (small / ".venv" / ".packages").exists()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("NewConnectionError('…: [Errno -3]')\nERROR: No matching distribution", "Connect to the network"),
        ("error: Request failed after 3 retries\n  Caused by: dns error", "Connect to the network"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "Free 5 GB"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "Empty pip's cache"),
        ("The virtual environment was not created because ensurepip is not", "apt install python3-venv"),
        ("ERROR: something unheard of\n", "(ERROR: something unheard of). More is in .setup/setup.log"),
        ("", "no error message"),
    ],
)
def test_an_installers_failure_becomes_one_sentence(log, sentence):
    assert sentence in bootstrap.explain(log)
    assert "\n" not in bootstrap.explain(log)


def test_make_alone_lists_every_target():
    text = (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    done = subprocess.run(["make"], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make ([a-z-]+)", done.stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert listed == set(phony)
    assert {"run", "test", "lab", "live", "bench"} <= listed


def test_ci_runs_make_test_and_nothing_cleverer():
    script = paths.ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
