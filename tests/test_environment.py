"""pyproject.toml, the lock and environment.yml agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib import paths
from lib.infra import jars, java

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
LOCK = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def locked():
    """Return the lock's requirements: canonical name → list of (version, marker or None)."""
    pins = {}
    for line in LOCK.splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\").strip())
            (pin,) = requirement.specifier
            pins.setdefault(canonicalize_name(requirement.name), []).append(
                (Version(pin.version), requirement.marker)
            )
    return pins


def conda():
    """Return environment.yml's dependencies: those of conda by name, and those of pip."""
    content = yaml.safe_load((paths.ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [line for line in content["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in content["dependencies"] if isinstance(line, dict)]
    return dict(line.partition("=")[::2] for line in plain), pip


@pytest.mark.parametrize("text", ASKED)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_in_the_lock_in_a_version_that_satisfies_it(text, python):
    requirement = Requirement(text)
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins = locked()[canonicalize_name(requirement.name)]
    versions = [version for version, marker in pins if marker is None or marker.evaluate(environment)]
    assert len(versions) == 1
    assert requirement.specifier.contains(versions[0])


def test_every_package_of_the_lock_has_a_hash():
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def test_the_lock_is_made_by_make_lock_and_names_no_host():
    assert "make lock" in LOCK.partition("==")[0]
    assert "://" not in LOCK


def test_conda_takes_the_packages_from_the_lock():
    _, pip = conda()
    assert pip == ["--require-hashes", "-r requirements.lock"]


def test_condas_python_is_one_that_the_project_and_the_lock_are_for():
    plain, _ = conda()
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(Version(plain["python"]))
    assert plain["python"] in PYTHONS
    assert "pip" in plain


def test_condas_java_is_new_enough():
    plain, _ = conda()
    assert int(plain["openjdk"].partition(".")[0]) >= java.MIN_VERSION


def test_pyspark_is_pinned_to_the_connectors_version():
    assert str(locked()["pyspark"][0][0]) == jars.read_lock("connector")[0]["version"] == "4.2.0"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (paths.ROOT / "LICENSE").read_text(encoding="utf-8")
