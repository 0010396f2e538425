"""A model is the same with the BLAS kernels of other processors (the notebooks: make reproduce)."""

import os
import subprocess
import sys

import pytest

from tests import oracle, reproduce

KERNELS = [name for name in ("OpenBLAS Haswell", "OpenBLAS Prescott") if reproduce.fits(name)]
TRAIN = """
from lib.model.classifier import CrossFit
from lib.model.dataset import EditDataset
from tests import synthetic
cross = CrossFit(EditDataset(synthetic.sample()), repeats=1)
model = synthetic.train(cross)
print(model.version, model.threshold, cross.scores().tolist())
"""


@pytest.mark.slow
def test_a_model_is_the_same_with_other_kernels():
    trainings = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            env=os.environ | reproduce.SETTINGS[kernel],
            cwd=oracle.ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kernel in KERNELS
    ]
    printed = {training.communicate()[0] for training in trainings}
    assert len(printed) == 1 and "" not in printed
