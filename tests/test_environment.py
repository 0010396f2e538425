"""pyproject.toml, the lock and environment.yml agree."""

import functools
import json
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lib import paths
from lib.infra import jars, java

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
LOCK = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@functools.cache
def locked():
    """Return the lock's requirements by canonical name: a package has several where versions of Python differ."""
    pins = {}
    for line in re.findall(r"^[^\s#].*(?= \\$)", LOCK, re.MULTILINE):
        requirement = Requirement(line)
        pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_in_the_lock_in_a_version_that_satisfies_it(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for asked in map(Requirement, ASKED):
        # One version for all of them: numpy 2.5 draws other binomial numbers than 2.4, and figures would differ.
        (pin,) = locked()[canonicalize_name(asked.name)]
        assert pin.marker is None or pin.marker.evaluate(environment)
        assert asked.specifier.contains(str(pin.specifier).removeprefix("==")), asked


def test_the_lock_is_made_by_make_lock_and_names_no_host():
    assert "make lock" in LOCK.partition("==")[0]
    assert "://" not in LOCK


def test_conda_takes_a_python_a_java_and_the_packages_of_the_lock():
    content = yaml.safe_load((paths.ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, openjdk, _, pip = content["dependencies"]
    assert python.removeprefix("python=") in PYTHONS
    assert int(openjdk.removeprefix("openjdk=")) >= java.MIN_VERSION
    assert pip == {"pip": ["--require-hashes", "-r requirements.lock"]}


def test_binder_and_devcontainer_have_the_same_environment():
    for name in ("environment.yml", "requirements.lock"):
        assert (paths.ROOT / ".binder" / name).samefile(paths.ROOT / name)
    container = json.loads((paths.ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["image"].endswith(":3.12-bookworm") and container["postCreateCommand"] == "make setup"


def test_pyspark_is_pinned_to_the_connectors_version():
    assert str(locked()["pyspark"][0].specifier) == "==" + jars.read_lock("connector")[0]["version"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (paths.ROOT / "LICENSE").read_text(encoding="utf-8")
