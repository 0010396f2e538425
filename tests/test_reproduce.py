"""Figures are the same with the BLAS kernels of other processors; nbval takes Prescott's for 03 (conftest.py)."""

import os
import subprocess
import sys

import pytest

from tests import reproduce

SAMPLE = reproduce.ROOT / "data" / "02_sample"
KERNELS = ("OpenBLAS Haswell", "OpenBLAS Prescott")
TRAIN = """
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from tests import synthetic
cross = CrossFit(EditDataset.from_table(synthetic.sample()), repeats=1)
model = BotClassifier.fit(cross.dataset, 0, 0.02, cross=cross)
print(model.version, model.threshold, cross.scores().tolist())
"""
slow = pytest.mark.slow


def usable(setting):
    return pytest.param(
        setting, marks=pytest.mark.skipif(not reproduce.fits(setting), reason="another processor")
    )


@slow
def test_a_model_is_the_same_with_other_kernels():
    environments = [
        os.environ | reproduce.SETTINGS[setting] for setting in KERNELS if reproduce.fits(setting)
    ]
    printed = {
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=env,
            cwd=reproduce.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for env in environments
    }
    assert len(printed) == 1


@slow
@pytest.mark.skipif(not any(SAMPLE.glob("edits-*.csv")), reason="there is no sample yet (make run)")
@pytest.mark.parametrize("setting", [usable("OpenBLAS Haswell")])
def test_notebook_03_is_the_same_with_other_kernels(setting):
    differing, version, _ = reproduce.run(setting, SAMPLE, quick=True)
    assert differing == []
    assert version
