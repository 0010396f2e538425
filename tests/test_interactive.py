"""The notebooks with a person in front: panels that are updated in place, cells that are run again."""

import time

import pytest
import world
from jupyter_client.manager import start_new_kernel
from test_notebooks import CODE

PANEL = """
from lib import plots
plots.PANEL_SECONDS = plots.LINE_SECONDS = 0
n = [0]
with plots.Panel(lambda: {"events": n[0], "newest": "<b>Ada"}) as panel:
    for n[0] in (0, 1000, 2000):
        panel.update()
"""
PARAMETERS = {
    "01_stream": {"RECORDING": "day.jsonl", "OUT_DIR": "01"},
    "02_sample": {"IN_DIR": "01", "OUT_DIR": "02", "PERCENT": 100},
    "03_eda_train": {"IN_DIR": "02", "OUT_DIR": "03", "MAX_HUMAN_FPR": 0.05, "MAX_HUMAN_EDIT_FPR": 0.09},
    "04_online": {"RECORDING": "day.jsonl", "MODEL_DIR": "03", "OUT_DIR": "04"},
}


@pytest.fixture(scope="module")
def execute():
    """Execute code as JupyterLab does (or, without a person, as papermill) and return the messages.

    In one kernel: what is slow to import is there, and so is Spark.
    """
    manager, client = start_new_kernel(kernel_name="python3")

    def execute(code, person=True):
        messages = []
        done = client.execute_interactive(code, output_hook=messages.append, allow_stdin=person, timeout=120)
        assert done["content"]["status"] == "ok", (code, done["content"])
        return [(message["msg_type"], message["content"]) for message in messages]

    yield execute
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small recording in whose names are letters that the pictures' font does not have."""
    raws = [raw.replace(b"Person", "和平 한국 ไทย".encode()) for raw in world.make_events(humans=400)]
    return world.record(tmp_path_factory.mktemp("lab") / "day.jsonl", raws).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_whole_notebook_runs_twice_and_so_does_each_cell(name, folder, execute):
    """Each cell twice in a row, but for those that take long."""
    given = {
        key: str(folder / value) if isinstance(value, str) else value
        for key, value in PARAMETERS[name].items()
    }
    first, *others = [cell.source for cell in CODE[name]]
    cells = ["\n".join([first, *(f"{key} = {value!r}" for key, value in given.items())]), *others]
    execute("from lib.online import run\nrun.RUNS = 2\n%reset -f")  # no names of another notebook
    for cell in cells + cells:
        for _ in range(2):
            start = time.monotonic()
            shown = execute(cell)
            assert not [content for _, content in shown if content.get("name") == "stderr"], cell
            if time.monotonic() - start > 1:
                break


@pytest.mark.parametrize(
    ("person", "kinds"),
    [(True, ["display_data"] + 4 * ["update_display_data"]), (False, ["stream"])],
)
def test_a_panel_is_one_output_or_where_nobody_reads_along_lines(person, kinds, execute):
    shown = [(kind, content) for kind, content in execute(PANEL, person) if kind in kinds]
    assert [kind for kind, _ in shown][: len(kinds)] == kinds
    if person:
        assert len({content["transient"]["display_id"] for _, content in shown}) == 1
        last = shown[-1][1]["data"]
        assert "2,000" in last["text/plain"] and "▁" in last["text/plain"]
        assert "&lt;b&gt;Ada" in last["text/html"] and "<b>" not in last["text/html"]
    else:
        assert "".join(content["text"] for _, content in shown).count(" UTC: events ") == 3
