"""A short run of tests/endurance/fuzz.py, and whether it would see what it looks for."""

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pytest

import attattr_jax as aa

SCRIPT = Path(__file__).parent / "endurance" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_files_give_nothing_but_input_errors(fuzz, tmp_path, capfd):
    status = fuzz.main(
        [
            "--cases",
            "150",
            "--seed",
            "1",
            "--workers",
            "1",
            "--output",
            str(tmp_path / "counts.json"),
        ]
    )
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert json.loads(capfd.readouterr().out) == counts
    assert (status, counts["failed"], counts["failed_at"]) == (0, 0, [])
    assert counts["cases"] == counts["accepted"] + counts["refused"] == 150
    assert counts["accepted"] >= 15 and counts["refused"] >= 50, "neither harmless nor hopeless"


def test_the_same_seed_gives_the_same_cases(fuzz):
    valid = json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode()
    for form in fuzz.CHANGES:
        first, second, other = (
            fuzz.mutate(fuzz.Random(seed), form, valid, [valid]) for seed in (4, 4, 5)
        )
        assert first == second != other


def _write(file):
    Path(file).write_text("x")


@pytest.mark.parametrize(
    ("act", "type_"),
    [
        (lambda inside, outside: None, "accepted"),
        (lambda inside, outside: _write(inside / "a"), "accepted"),
        (lambda inside, outside: (inside / "b").mkdir(), "accepted"),
        (lambda inside, outside: _write(inside / ".." / "outside" / "a"), "forbidden act"),
        (lambda inside, outside: (outside / "b").mkdir(), "forbidden act"),
        (lambda inside, outside: Path(inside / "a").rename(outside / "a"), "forbidden act"),
        (
            lambda inside, outside: __import__("subprocess").run(["true"], check=True),
            "forbidden act",
        ),
        (lambda inside, outside: __import__("pickle").loads(b"cos\ngetcwd\n."), "forbidden act"),
        (lambda inside, outside: {}["a"], "KeyError"),
        (lambda inside, outside: np.zeros(2**50), "MemoryError"),
        (lambda inside, outside: time.sleep(5), "Hang"),
    ],
)
def test_what_is_forbidden_is_seen(fuzz, tmp_path, monkeypatch, act, type_):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").touch()
    # It may be written to as well, and holds `outside`
    monkeypatch.setattr(fuzz.tempfile, "tempdir", str(inside))
    assert fuzz.judge(lambda: act(inside, outside), [inside], seconds=0.5).type == type_


def test_input_errors_are_one_line_and_hide_nothing(fuzz):
    def refuse(message, cause=None):
        try:
            if cause:
                raise cause
        finally:
            raise aa.InputError(message) from None

    assert fuzz.judge(lambda: refuse("a.json must be such")).type == "refused"
    for message in ("two\nlines", "x" * 5000, ""):
        assert fuzz.judge(lambda message=message: refuse(message)).type == "message is not a line"
    assert fuzz.judge(lambda: refuse("damaged", MemoryError())).type == "huge allocation"
