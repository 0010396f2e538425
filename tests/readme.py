"""The README's picture is one of the report of stage 4: ``python -m tests.readme`` takes it from the notebook again."""

import base64

import nbformat

from lib import paths

PICTURE = paths.ROOT / "docs" / "stopped.png"
NOTEBOOK = paths.ROOT / "notebooks" / "04_online.ipynb"
SECTION = "## 3."


def outputs():
    """Return what the cells of that section have shown: for each output, its data by MIME type."""
    here, found = False, []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "markdown":
            here = cell.source.startswith(SECTION) or (here and not cell.source.startswith("## "))
        elif here:
            found += [output.data for output in cell.outputs if "data" in output]
    return found


def picture():
    """Return the section's first picture, as PNG."""
    return base64.b64decode(next(data["image/png"] for data in outputs() if "image/png" in data))


if __name__ == "__main__":
    PICTURE.write_bytes(picture())
