"""kill -9 at a random moment: nothing is lost and nothing is there twice. The seed is printed; SOAK_SEED repeats it."""

import os
import random

import pytest
import soak
import world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chance():
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"SOAK_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """What must come out."""
    folder = tmp_path_factory.mktemp("quiet")
    model_dir, recording, raws = soak.prepare(folder)
    return model_dir, recording, raws, world.rows(folder / "whole"), world.letters(folder / "whole")


def under_fire(victim, quiet, chance, folder):
    model_dir, recording, raws, expected, letters = quiet
    trial = soak.KillRun(folder, model_dir, recording)
    print(*trial.kill_and_resume(victim, chance), sep="\n")
    trial.check(expected, letters, raws)


def test_the_driver_is_killed_and_the_same_command_resumes(quiet, chance, tmp_path):
    under_fire("driver", quiet, chance, tmp_path)


def test_something_else_is_killed_and_the_same_command_resumes(quiet, chance, tmp_path):
    under_fire(chance.choice(soak.VICTIMS[1:]), quiet, chance, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(10))
def test_ten_more(number, quiet, chance, tmp_path):
    under_fire(soak.VICTIMS[number % len(soak.VICTIMS)], quiet, chance, tmp_path)
