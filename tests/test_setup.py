"""The set-up goes on where it was interrupted, does nothing twice, and says in one sentence what is wrong."""

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

LIB = {
    "__init__.py": "",
    "runtime/__init__.py": "",
    "runtime/java.py": "print('java')",
    "runtime/jars.py": "print('jars')",
}
PYPROJECT = '[project]\nname = "small"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\n' + (
    'build-backend = "setuptools.build_meta"\n[tool.setuptools]\n'
    'packages = ["lib", "lib.infra"]\npackage-dir = { "" = "." }\n'
)


@pytest.fixture
def small(tmp_path):
    """A project with our set-up and a lock of one package."""
    lock = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
    block = re.search(r"^six==.*\n(?:    .*\n)+", lock, re.MULTILINE)
    (tmp_path / "requirements.lock").write_text(block[0])
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "lib" / "runtime").mkdir(parents=True)
    for name, text in LIB.items():
        (tmp_path / "lib" / name).write_text(text)
    for name in ("bootstrap.py", "Makefile"):
        shutil.copy(paths.ROOT / name, tmp_path)
    return tmp_path


def base_python():
    """Return the Python that virtual environments of this one are made from."""
    return os.path.realpath(sys.executable)


def make(folder, *arguments, **environment):
    """Run make with this Python."""
    command = ["make", "--no-print-directory", f"PYTHON={base_python()}", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.mark.slow
def test_a_set_up_that_was_killed_goes_on_and_a_second_one_does_nothing(small):
    command = [base_python(), "bootstrap.py"]
    killed = subprocess.Popen(command, cwd=small, stdout=subprocess.DEVNULL, start_new_session=True)
    while not (small / ".venv" / "bin" / "python").exists():
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    first = make(small, "setup")
    if "package index does not answer" in first.stderr:
        pytest.skip(f"A whole set-up was NOT tested: {first.stderr}")
    assert first.returncode == 0, first.stderr
    assert "Installing up to 1 packages" in first.stdout
    imported = [small / ".venv" / "bin" / "python", "-c", "import six, lib; print(lib.__file__)"]
    where = subprocess.run(imported, cwd="/", capture_output=True, text=True, check=True).stdout
    assert where.strip() == str(small / "lib" / "__init__.py")
    assert make(small, "setup").stdout == "java\njars\n"
    (small / "requirements.lock").write_text((small / "requirements.lock").read_text() + "# changed\n")
    assert "Installing up to 1 packages" in make(small, "setup").stdout


def test_a_step_that_fails_stops_the_set_up(small):
    program = (
        "import bootstrap, sys; bootstrap.DONE = bootstrap.ROOT / 'done'\n"
        "try: bootstrap.step('java', 'Java', [sys.executable, '-c', 'import sys; sys.exit(\"No Java.\")'])\n"
        "except bootstrap.SetupError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=small, capture_output=True, text=True, check=True
    )
    assert done.stderr == "No Java.\n"
    assert done.stdout == "Set-up stopped at Java; run the same again when that is mended.\n"
    assert not (small / "done").exists()


def test_an_old_python_gets_one_sentence():
    program = (
        "import runpy, sys; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (default)';"
        f"runpy.run_path({str(paths.ROOT / 'bootstrap.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Python must be 3.11 or newer. Got 3.9.2. Install a newer one")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_an_old_python_can_read_that_far(version):
    ast.parse((paths.ROOT / "bootstrap.py").read_text(), feature_version=tuple(map(int, version.split("."))))


def test_no_python_at_all_gets_one_sentence(small, tmp_path):
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("sh", "make"):
        (path / name).symlink_to(shutil.which(name))
    command = ["make", "setup"]
    done = subprocess.run(
        command, cwd=small, capture_output=True, text=True, env={"PATH": str(path)}, check=False
    )
    assert done.stderr.splitlines()[0].startswith("Python must be 3.11 or newer. Got none on PATH.")


def test_a_python_that_is_named_is_the_one_that_is_taken(small):
    named = small / "old"
    named.write_text("#!/bin/sh\necho named $1\n")
    named.chmod(0o755)
    assert make(small, f"PYTHON={named}", "setup").stdout == "named bootstrap.py\n"


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (
            "NewConnectionError('…: Failed to establish a connection: [Errno -3]')\nERROR: No matching distribution",
            "Connect to the network and run the same again",
        ),
        ("error: Request failed after 3 retries\n  Caused by: dns error", "Connect to the network"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "Make room",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "Empty pip's cache"),
        (
            "The virtual environment was not created successfully because ensurepip is not",
            "apt install python3-venv",
        ),
        (
            "ERROR: something unheard of",
            "(ERROR: something unheard of). All of it stands in .setup/setup.log",
        ),
        ("", "nothing was said"),
    ],
)
def test_an_installers_failure_becomes_one_sentence(log, sentence):
    told = bootstrap.explain(log, "packages")
    assert sentence in told
    assert "\n" not in told


def test_a_full_disk_is_seen_before_it_is_filled(monkeypatch):
    monkeypatch.setattr(bootstrap, "ROOM", 2**60)
    with pytest.raises(
        bootstrap.SetupError, match=r"needs \d+ GB of free disk. Got .* Make room and run the same"
    ):
        bootstrap._room()


def test_packages_whose_installation_was_cut_off_are_forgotten(tmp_path):
    def package(name, size):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        if size is not None:
            (info / "RECORD").write_text(f"{name}.py,sha256=x,{size}\n{name}-1.0.dist-info/RECORD,,\n")

    package("whole", 6)
    package("short", 600)
    package("unrecorded", None)
    assert bootstrap.forget_halves(tmp_path) == ["short", "unrecorded"]
    assert bootstrap.forget_halves(tmp_path) == []
    assert (tmp_path / "whole-1.0.dist-info").exists()


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
