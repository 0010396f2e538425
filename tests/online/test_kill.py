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


def check(victims, chance, model_dir, recording, raws, folder):
    world.judge_at_once(folder / "whole", model_dir, raws)
    trial = soak.KillRun(folder / "out", model_dir, recording)
    print(*trial.kill_and_resume(victims, chance), sep="\n")
    trial.check(world.rows(folder / "whole"), world.letters(folder / "whole"), raws)


def test_what_is_killed_resumes(chance, model_dir, recording, raws, tmp_path):
    """Something that the driver needs, and then the driver itself."""
    victims = [chance.choice(soak.VICTIMS[1:]), "driver"]
    check(victims, chance, model_dir, recording, raws, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(10))
def test_ten_more(number, chance, model_dir, recording, raws, tmp_path):
    check([soak.VICTIMS[number % len(soak.VICTIMS)]], chance, model_dir, recording, raws, tmp_path)
