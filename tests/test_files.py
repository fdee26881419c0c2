import os

import pytest

from attattr_jax import files


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
