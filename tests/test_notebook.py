"""examples/attattr.ipynb, run with a tiny model in the place of the one it names."""

import shutil
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parent.parent / "examples" / "attattr.ipynb"


def test_the_notebook_runs_and_every_cell_shows_something(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "runs" / "demo")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 10 and not any(cell.outputs for cell in cells), "kept without outputs"
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = []
    for cell in cells:
        data = {}
        for output in cell.outputs:
            assert "Warning" not in str(output.get("text", "")), output
            data |= output.get("data", {})
        assert data, cell.source
        shown.append(data)
    assert shown[0]["text/plain"].startswith("<Classifier 'runs/demo'")
    for number in (1, 6, 9):
        assert shown[number]["text/html"].startswith("<div><iframe class=")
    for number in (3, 4, 5):
        assert "<table" in shown[number]["text/html"]
    assert len(shown[2]["text/plain"]) < 600
    assert shown[7]["image/png"]
