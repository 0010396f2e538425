"""The README is true: its picture and figures are the notebooks', and what it names is there."""

import re

import pytest
import readme

from lib import params, paths

TEXT = (paths.ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = "\n".join(data.get("text/html", "") for data in readme.outputs())


def test_the_picture_is_the_one_in_the_notebook():
    assert readme.PICTURE.read_bytes() == readme.picture(), "renew it: .venv/bin/python -m tests.readme"


def test_the_figures_are_those_of_the_notebook():
    found = re.search(r"stopped ([\d.]+) % \([^)]*\) of the bot edits .*?the name rule ([\d.]+) %", SHOWN)
    ours, rule = map(float, found.groups())
    assert f"above {int(ours)} %" in TEXT and f"falling to {rule:.0f} %" in TEXT
    humans = re.search(r"([\d,]+ of [\d,]+) human users .*?: ([\d.]+) %, .*? at most ([\d.]+) %", SHOWN)
    assert "{} humans ({} %; with 95 % confidence at most {} %)".format(*humans.groups()) in TEXT


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z][a-z-]*)\b", TEXT))))
def test_every_target_that_it_names_is_in_the_makefile(target):
    makefile = (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"(?<![\w/.-])(?:lib|docs|tests|jars)/[\w./]*\w", TEXT)))
)
def test_every_file_that_it_names_is_there(name):
    assert (paths.ROOT / name).exists()


@pytest.mark.parametrize(("notebook", "options"), re.findall(r"papermill notebooks/(\w+)\.ipynb (.*)", TEXT))
def test_every_parameter_that_it_sets_is_one_of_the_notebook(notebook, options):
    for name, value in re.findall(r"-p (\w+) (\S+)", options):
        rule = params.RULES[notebook][name]
        rule.read(value if rule.kind is str else rule.kind(value))


def test_every_setting_of_make_run_is_a_parameter():
    names = set(re.findall(r"\b([A-Z_]+)=", " ".join(re.findall(r"^make run (.*)", TEXT, re.MULTILINE))))
    assert {"PERCENT", "FROM", "PARAMS"} <= names <= {"FROM", "PARAMS"}.union(*params.RULES.values())
