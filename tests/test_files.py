import os

import pytest

from attattr_jax.runtime import files


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    files.write_json(file, {"text": "früher"})
    assert file.read_text(encoding="utf-8") == '{\n  "text": "früher"\n}\n'

    def no_space(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(file, {"text": "later"})
    assert caught.value.filename == str(file)
    assert "früher" in file.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [file]


def test_links_are_replaced_or_refused(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in (".a.json.part", "progress.jsonl"):
        (tmp_path / name).symlink_to(mine)
    files.write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").read_text() == "1\n" and not (tmp_path / "a.json").is_symlink()
    with pytest.raises(OSError, match="symbolic links"):
        files.Journal(tmp_path / "progress.jsonl").put("a", 1)
    assert mine.read_text() == "mine"


def test_names_that_are_not_utf_8_can_be_written(tmp_path):
    files.write_json(tmp_path / "run.json", {"name": "ü\udcff"})
    assert files.read_json(tmp_path / "run.json") == {"name": "ü\udcff"}
