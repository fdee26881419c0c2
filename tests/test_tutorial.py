"""The blocks of docs/tutorial.md, with a tiny model in the place of the one they name."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from attattr_jax.pruning import costs

ROOT = Path(__file__).parent.parent


@pytest.mark.usefixtures("standard_promotion")
def test_the_tutorial_runs(trained_folder, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("tutorial", ROOT / "benchmarks" / "tutorial.py")
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    shutil.copytree(trained_folder, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    page = tutorial.PAGE.read_text(encoding="utf-8")
    printed = [output for _, output in tutorial.outputs(page)]
    not_run = page.count("```output") + page.count("```sh train")
    assert len(printed) == page.count("```") // 2 - not_run > 10, "every block but the training"
    assert "layer 1: sum" in "".join(printed) and "heads left: [" in printed[-1]
    for picture in tutorial.PICTURES:
        assert (tmp_path / "runs" / "tutorial" / f"{picture}.pdf").is_file()
        assert (
            ROOT / "docs" / f"tutorial_{picture}.png"
        ).is_file() and f"tutorial_{picture}.png" in page


def test_the_first_screen_of_the_readme_is_the_example():
    """The code there is examples/first_steps.py, which `make demo` runs."""
    root = Path(__file__).parent.parent
    code = (root / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert (root / "examples" / "first_steps.py").read_text(encoding="utf-8").endswith(code)
