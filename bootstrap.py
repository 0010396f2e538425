"""Set up what is missing: ``make setup``, with nothing but Python 3.11 or newer.

A virtual environment in ``.venv`` with the packages of ``requirements.lock``, hash for hash; a Java; the jars. make's
time stamps decide whether it runs. Killed at any moment and run again it continues: downloads are kept, and an
environment that is not complete is made again. Every failure is one sentence.
"""

import sys

MIN_VERSION = (3, 11)
if sys.version_info < MIN_VERSION:
    sys.exit(
        # In the old way of formatting, so that an old Python can read this far.
        "Python must be 3.11 or newer. Got %s. Install a newer one, or name it: make PYTHON=/path/to/python3.12 setup"  # noqa: UP031
        % sys.version.split()[0]
    )

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

VERSION = sys.version.split()[0]
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Exists when all packages are installed; without it the environment is made again.
COMPLETE = VENV / ".packages"
SETUP = ROOT / ".setup"
LOG = SETUP / "setup.log"
TEMPORARY = SETUP / "tmp"  # /tmp may be small: Spark's package alone is unpacked to 1 GB
REDIRECTIONS = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
# The installer's own names for what pip is configured with.
PIP_OPTIONS = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
PIP_OPTIONS |= {"no-index": "UV_NO_INDEX", "cert": "SSL_CERT_FILE"}
# Imports compile; with PYTHONDONTWRITEBYTECODE in the user's environment every kernel would do so again.
COMPILE = """
import importlib, pkgutil, ipykernel.kernelapp, pyspark.daemon, lib
for module in pkgutil.walk_packages(lib.__path__, "lib."):
    importlib.import_module(module.name)
"""

# What installers write when something outside them is wrong, and what to do about it.
SYMPTOMS = {
    ("No space left on device", "Errno 28", "os error 28"): "The disk is full. Free 5 GB and run the same again.",
    ("HASHES", "hash mismatch", "Hash mismatch"): (
        "A package is not the one that requirements.lock names by its hash. Empty pip's cache (pip cache purge) and "
        "run the same again; if it stays, do not install it."
    ),
    ("Requires-Python", "requires a different Python", "not supported on this platform", "no wheels with a matching"): (
        f"A package is not made for Python {VERSION}. Name another: make PYTHON=/path/to/python3.12 setup"
    ),
    (
        "NewConnectionError", "Name or service not known", "name resolution", "Network is unreachable",
        "Could not connect", "Connection refused", "ConnectTimeout", "Read timed out", "dns error",
        "error sending request", "ProxyError", "from versions: none", "Failed to fetch", "SSLError",
    ): "The package index does not answer. Connect to the network and run the same again.",
    ("ensurepip",): "This Python has no ensurepip. Install it (on Debian: apt install python3-venv) and run again.",
}  # fmt: skip


def main() -> None:
    """Make the environment, then let the project fetch its Java and its jars."""
    os.chdir(ROOT)
    environment = {name: value for name, value in os.environ.items() if name not in REDIRECTIONS}
    environment |= {"TMPDIR": str(TEMPORARY), "UV_SYSTEM_CERTS": "1"}
    if not COMPLETE.exists():
        print(f"Making .venv with Python {VERSION}", flush=True)
        install([sys.executable, "-m", "venv", "--clear", str(VENV)], environment)
    print(f"Installing the packages (about a minute; {LOG.relative_to(ROOT)} has the details)", flush=True)
    COMPLETE.unlink(missing_ok=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    lock = Path("requirements.lock").read_text("utf-8")
    SETUP.mkdir(exist_ok=True)
    (SETUP / "uv.lock").write_text(re.search(r"^uv==.*\n(?: {4}--hash.*\n)+", lock, re.MULTILINE)[0])
    install([*pip, "install", "--require-hashes", "-r", str(SETUP / "uv.lock")], environment)
    options = subprocess.check_output([*pip, "config", "list"], env=environment, text=True)
    for option, value in re.findall(r"\.([\w-]+)='(.*)'$", options, re.MULTILINE):
        if option in PIP_OPTIONS:
            environment.setdefault(PIP_OPTIONS[option], value)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON)]
    # The lock is complete; asked for dependencies, uv fetches Spark's 450 MB twice from an index that forbids caching.
    install([*uv, "--no-deps", "--require-hashes", "-r", "requirements.lock"], environment)
    install([*uv, "--no-deps", "-e", "."], environment)
    install([str(PYTHON), "-c", "import bootstrap; bootstrap.put_first()"], environment)
    COMPLETE.touch()
    compiling = subprocess.Popen([str(PYTHON), "-c", COMPILE], env=environment)
    for module in ("lib.infra.java", "lib.infra.jars"):
        if subprocess.run([str(PYTHON), "-m", module], check=False).returncode:
            sys.exit(f"Set-up stopped at {module}. Correct that and run the same again.")
    compiling.wait()


def put_first() -> None:
    """Let the environment of this Python look here for `lib` before it looks where a notebook is run.

    An editable install alone puts the project last: a folder `lib` there would be imported.
    """
    file = Path(sysconfig.get_path("purelib")) / "00-wikisieve.pth"
    file.write_text(f"import sys; sys.path.insert(-1, {str(ROOT)!r})\n", "utf-8")


def install(command: list[str], environment: dict[str, str]) -> None:
    """Run an installer; a failure ends the set-up with one sentence."""
    TEMPORARY.mkdir(parents=True, exist_ok=True)
    with open(LOG, "wb") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    shutil.rmtree(TEMPORARY)
    if done.returncode:
        sys.exit(explain(LOG.read_text("utf-8", "replace")))


def explain(log: str) -> str:
    """Return one sentence on what an installer's output means, and what to do."""
    for words, sentence in SYMPTOMS.items():
        if any(word in log for word in words):
            return sentence
    errors = [line.strip() for line in log.splitlines() if "error" in line.lower()]
    reason = errors[-1] if errors else "no error message"
    return f"The packages could not be installed ({reason}). More is in {LOG.relative_to(ROOT)}; run the same again."


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"Set-up must be able to write here. Got: {error}. Correct that and run the same again.")
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run the same again: it continues.")
