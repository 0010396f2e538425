"""Set up what is missing: ``python3 bootstrap.py`` (``make setup``), with nothing but Python 3.11 or newer.

A virtual environment in ``.venv`` with the packages of ``requirements.lock``, hash for hash; a Java; the jars. What is
done is remembered in ``.venv`` by the SHA-256 of what it was made from, so a second run takes a second and one that was
interrupted goes on where it was. Every failure is one sentence that says what to do.
"""

import sys

OLDEST = (3, 11)
if sys.version_info < OLDEST:
    sys.exit(
        # In the old way of formatting, so that an old Python can read this far.
        "Python must be 3.11 or newer. Got %s. Install a newer one, or name it: make PYTHON=/path/to/python3.12 setup"  # noqa: UP031
        % sys.version.split()[0]
    )

import contextlib
import csv
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
DONE = VENV / ".wikisieve"
LOG = ROOT / ".setup" / "setup.log"
SCRATCH = (
    ROOT / ".setup" / "tmp"
)  # /tmp may be small, or in memory: Spark's package alone is unpacked to 1 GB
LOCK = ROOT / "requirements.lock"
ROOM = 4 * 2**30  # bytes: the environment takes 1.7 GB, and packages are unpacked beside it

# What the installers write when something outside them is wrong, and what to do about it.
SYMPTOMS = {
    ("No space left on device", "Errno 28", "os error 28"): (
        "The disk is full. Make room ({room} GB are needed) and run the same again: it goes on where it was."
    ),
    ("HASHES", "hash mismatch", "Hash mismatch"): (
        "A package is not the one that requirements.lock names by its hash. Empty pip's cache (pip cache purge) and "
        "run the same again; if it stays, do not install it."
    ),
    ("Requires-Python", "requires a different Python", "not supported on this platform", "no wheels with a matching"): (
        "A package is not made for Python {version} here. Name another: make PYTHON=/path/to/python3.12 setup"
    ),
    (
        "NewConnectionError", "Name or service not known", "name resolution", "Network is unreachable",
        "Could not connect", "Connection refused", "ConnectTimeout", "Read timed out", "dns error",
        "error sending request", "ProxyError", "from versions: none", "Failed to fetch", "SSLError",
    ): (
        "The package index does not answer. Connect to the network and run the same again: it goes on where it was."
    ),
}  # fmt: skip


class SetupError(Exception):
    """A step failed; the message says what to do."""


def main() -> None:
    """Do the steps that are not done yet."""
    os.chdir(ROOT)
    LOG.parent.mkdir(exist_ok=True)
    with _alone():
        environment()
        packages()
        project()
        step("java", "Java", [str(PYTHON), "-m", "lib.infra.java"])
        step("jars", "jars", [str(PYTHON), "-m", "lib.infra.jars"])
        (DONE / "complete").write_text(key(), encoding="ascii")


def environment() -> None:
    """Make the virtual environment, or keep the one that runs."""
    if _runs(PYTHON):
        return
    _room()
    say(f"Making .venv with Python {sys.version.split()[0]}")
    run(
        [sys.executable, "-m", "venv", "--clear", *(["--without-pip"] if uv() else []), str(VENV)],
        "environment",
    )


def packages() -> None:
    """Install the lock, nothing else, and every file by its hash."""
    stamp = key(LOCK, text=_runs(PYTHON))
    if done("packages", stamp):
        return
    _room()
    count = sum(
        "==" in line and not line.startswith((" ", "#")) for line in LOCK.read_text("utf-8").splitlines()
    )
    forget_halves(next((VENV / "lib").glob("python3*")) / "site-packages")
    say(f"Installing up to {count} packages with {'uv' if uv() else 'pip'} (about two minutes)")
    run([*_installer(), "--require-hashes", "-r", str(LOCK)], "packages")
    note("packages", stamp)


def forget_halves(site: Path) -> list[str]:
    """Remove the records of packages whose installation was cut off: installers would take them for whole.

    Parameters
    ----------
    site : Path
        A ``site-packages`` folder.

    Returns
    -------
    list of str
        The packages that will be installed again.
    """
    halves = [info for info in sorted(site.glob("*.dist-info")) if not _whole(info)]
    for info in halves:
        shutil.rmtree(info)
    return [info.name.split("-")[0] for info in halves]


def _whole(info: Path) -> bool:
    """Return whether all files that a package's record names are there in their full size."""
    try:
        with open(info / "RECORD", encoding="utf-8", newline="") as record:
            sizes = [(info.parent / row[0], row[2]) for row in csv.reader(record) if len(row) == 3]
        return all(not size or path.stat().st_size == int(size) for path, size in sizes)
    except (OSError, ValueError):
        return False


def project() -> None:
    """Make ``lib`` importable in the environment, from where it is."""
    stamp = key(ROOT / "pyproject.toml", text=str(ROOT))
    if done("project", stamp):
        return
    say("Installing wikisieve itself")
    run([*_installer(), "--no-deps", "-e", str(ROOT)], "project")
    note("project", stamp)


def step(name: str, what: str, command: list[str]) -> None:
    """Run one of the project's own programs, which say themselves what is wrong."""
    finished = subprocess.run(command, cwd=ROOT, check=False)
    if finished.returncode:
        raise SetupError(f"Set-up stopped at {what}; run the same again when that is mended.")
    note(name, "done")


def run(command: list[str], name: str) -> None:
    """Run an installer, show that it lives, and turn its failure into one sentence."""
    begun = time.monotonic()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    with open(LOG, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_clean())
        try:
            for seconds in _ticks(process):
                show(seconds, _last_line())
        except BaseException:
            process.terminate()
            process.wait()
            raise
    show(None, "")
    shutil.rmtree(SCRATCH, ignore_errors=True)
    if process.returncode:
        raise SetupError(explain(LOG.read_text("utf-8", "replace"), name))
    say(f"  done in {time.monotonic() - begun:.0f} s")


def explain(log: str, name: str) -> str:
    """Say in one sentence what an installer's output means.

    Parameters
    ----------
    log : str
        Everything it wrote.
    name : str
        The step.

    Returns
    -------
    str
        What is wrong and what to do.
    """
    for words, sentence in SYMPTOMS.items():
        if any(word in log for word in words):
            return sentence.format(room=ROOM >> 30, version=sys.version.split()[0])
    if "ensurepip" in log:
        return "This Python has no ensurepip. Install it (on Debian: apt install python3-venv), or uv, and run again."
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "nothing was said"
    )
    return (
        f"The step '{name}' failed ({last}). All of it stands in {LOG.relative_to(ROOT)}; run the same again."
    )


def uv() -> str | None:
    """Return the path of uv, which is quicker than pip, if it is on PATH."""
    return shutil.which("uv")


def key(*files: Path, text: str = "") -> str:
    """Return one SHA-256 over files and a text."""
    digest = hashlib.sha256(text.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def done(name: str, stamp: str) -> bool:
    """Return whether a step was done with just this input."""
    with contextlib.suppress(OSError):
        return (DONE / name).read_text("ascii") == stamp
    return False


def note(name: str, stamp: str) -> None:
    """Remember that a step was done."""
    DONE.mkdir(parents=True, exist_ok=True)
    (DONE / name).write_text(stamp, encoding="ascii")


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def show(seconds: int | None, text: str) -> None:
    """Show progress: one line that changes on a terminal, a new line every ten seconds elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K" + (f"  {seconds:3d} s  {text[:70]}" if seconds is not None else ""))
        sys.stdout.flush()
    elif seconds and seconds % 10 == 0:
        say(f"  {seconds:3d} s  {text[:90]}")


def _ticks(process: subprocess.Popen[bytes]) -> Iterator[int]:
    seconds = 0
    while True:
        try:
            process.wait(1)
            return
        except subprocess.TimeoutExpired:
            seconds += 1
            yield seconds


def _last_line() -> str:
    """Return what the installer is at, in a few words."""
    with open(LOG, "rb") as log:
        log.seek(max(0, LOG.stat().st_size - 4000))
        lines = log.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    told = [line.strip() for line in lines if line.strip() and "━" not in line]
    if not told or "Installing collected packages" not in told[-1]:
        return told[-1] if told else ""
    return f"Unpacking: {len(list(VENV.glob('lib/*/site-packages/*.dist-info')))} packages are in place"


def _runs(python: Path) -> str:
    """Return the version of a Python that runs and is new enough, else nothing."""
    command = [str(python), "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
    return answer if answer and tuple(map(int, answer.split("."))) >= OLDEST else ""


def _installer() -> list[str]:
    program = uv()
    if program:
        return [program, "pip", "install", "--python", str(PYTHON)]
    if subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        run([str(PYTHON), "-m", "ensurepip", "--upgrade"], "pip")
    return [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile"]


def _clean() -> dict[str, str]:
    """Return the environment without what would send packages elsewhere than into .venv, with room to unpack."""
    dropped = (
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_REQUIRE_VIRTUALENV",
        "VIRTUAL_ENV",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"TMPDIR": str(SCRATCH)}


def _room() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < ROOM:
        raise SetupError(
            f"Set-up needs {ROOM >> 30} GB of free disk. Got {free / 2**30:.1f} GB. Make room and run the same again."
        )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let a second set-up wait for the first."""
    with open(LOG.with_name("lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another set-up is running in this folder: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"Set-up must be able to write here. Got: {error}. Mend that and run the same again.")
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run the same again: it goes on where it was.")
