"""Files are whole or not there."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from lib import artifacts
from lib.params import ParameterError


def test_round_trip(tmp_path):
    artifacts.write(tmp_path / "new", events=3, users="日本")
    made = artifacts.read(tmp_path / "new", "notebooks/01_stream.ipynb")
    assert (made["events"], made["users"]) == (3, "日本")
    assert made["versions"]["pyspark"]


def test_a_missing_manifest_names_its_maker(tmp_path):
    with pytest.raises(ParameterError, match=r"Run notebooks/01_stream.ipynb first"):
        artifacts.read(tmp_path, "notebooks/01_stream.ipynb")


def test_a_number_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write(tmp_path, share=float("nan"))
    assert not any(tmp_path.iterdir())


def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path):
    target = tmp_path / "state.json"
    program = (
        "import sys, itertools; from pathlib import Path; from lib import artifacts\n"
        "for n in itertools.count():\n"
        "    artifacts.atomic_write(Path(sys.argv[1]), '[' + str(n) + ', ' * 1 + '0, ' * 50000 + '0]')\n"
        "    print(n, flush=True)\n"
    )
    for rounds in (1, 3, 7):
        process = subprocess.Popen([sys.executable, "-c", program, target], stdout=subprocess.PIPE)
        for _ in range(rounds):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(json.loads(target.read_text())) == 50_002


def test_scratch_of_a_process_that_was_killed_is_removed_and_that_of_a_living_one_stays(monkeypatch):
    program = "from lib import artifacts; import time; print(artifacts.scratch(), flush=True); time.sleep(99)"
    with tempfile.TemporaryDirectory(" b", dir="/tmp") as root:  # a short name
        monkeypatch.setattr(tempfile, "tempdir", root)
        options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"TMPDIR": root}}
        killed, living = (subprocess.Popen([sys.executable, "-c", program], **options) for _ in range(2))
        folders = [Path(process.stdout.readline().strip()) for process in (killed, living)]
        killed.kill()
        killed.communicate()
        for folder in folders:
            (folder / "spark-0").mkdir()
            os.utime(folder, (0, 0))
        young = artifacts.scratch.__wrapped__()
        assert set(Path(root).iterdir()) == {folders[1], young}
        assert len(os.fsencode(young / f".{uuid.uuid4()}.sock")) <= 107, "the longest name of a socket"
        living.kill()
        living.communicate()
