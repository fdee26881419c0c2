"""Folders of explanations that are not finished, are damaged, or both."""

import json
import shutil

import numpy as np
import pytest
from conftest import read_jsonl

import attattr_jax as aa
from attattr_jax.attribution.options import AttributionOptions
from attattr_jax.data.batches import encode
from attattr_jax.data.splits import Split
from attattr_jax.explanations import parts
from attattr_jax.explanations.explain import explain
from attattr_jax.runtime import files, sharding

TEXTS = [
    "good film",
    "bad",
    "a dull story",
    "the film is very good .",
    "the music is never flat",
    "slow",
    "a slow plot and weak acting",
]


@pytest.fixture(scope="module")
def explained(tiny):
    split = Split("texts", "--text", TEXTS, None, None)
    options = AttributionOptions(n_steps=2)
    return list(
        explain(
            tiny,
            split,
            encode(tiny, split, 32),
            sharding.data_mesh(),
            options,
            batch_size=2,
        )
    )


def write(folder, explained, process=0, save="full"):
    """Write a part for each two explanations."""
    writer = parts.ExplanationWriter(folder, save, process)
    for number, one in enumerate(explained, 1):
        writer.add(one)
        if number % 2 == 0:
            writer.flush()
    writer.flush()


@pytest.fixture
def unfinished(explained, tmp_path):
    """Two processes' parts, two of the first and one of the second: six examples."""
    write(tmp_path, explained[:4])
    write(tmp_path, explained[4:6], process=1)
    return tmp_path


@pytest.fixture
def assembled(explained, tmp_path):
    write(tmp_path, explained)
    parts.assemble(tmp_path, len(TEXTS))
    return tmp_path


def indices(explained):
    return {one.index for one in explained}


@pytest.mark.parametrize("save", ["none", "summary", "full"])
def test_readers_see_one_data_set_whatever_the_number_of_writers(explained, tmp_path, save):
    for name, num_writers in (("one", 1), ("three", 3)):
        for process in range(num_writers):
            write(tmp_path / name, explained[process::num_writers], process, save)
        parts.assemble(tmp_path / name, len(TEXTS))
        assert not (tmp_path / name / "parts").exists()
    one, three = (aa.load_attributions(tmp_path / name) for name in ("one", "three"))
    assert [example.text for example in one] == [example.text for example in three] == TEXTS
    for example, other in zip(one, three, strict=True):
        assert (
            example.head_importance == other.head_importance
            and example.array_names == other.array_names
        )
        for array in example.array_names:
            np.testing.assert_array_equal(example.array(array), other.array(array))
    np.testing.assert_array_equal(
        np.float32(explained[0].head_importance), explained[0].array("head_importance")
    )


def test_a_run_goes_on_at_any_example(tiny, explained, tmp_path):
    """Rows computed after a stop in the middle of a batch are, to the bit, what they would have
    been.
    """
    split = Split("texts", "--text", TEXTS, None, None)
    write(tmp_path, explained[:3])
    assert parts.reopen(tmp_path, len(TEXTS)) == []
    done = parts.done(tmp_path, len(TEXTS))
    assert done == indices(explained[:3])
    options = AttributionOptions(n_steps=2)
    encoded = encode(tiny, split, 32)
    rest = list(
        explain(tiny, split, encoded, sharding.data_mesh(), options, batch_size=2, done=done)
    )
    assert [one.row for one in rest] == [one.row for one in explained[3:]]
    write(tmp_path, rest)
    parts.assemble(tmp_path, len(TEXTS))
    assert read_jsonl(tmp_path / "examples.jsonl")[5]["text"] == "slow"
    names = [one.arrays["file"] for one in aa.load_attributions(tmp_path)]
    assert len(set(names)) == 4, "no shard was written over"


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm", [truncate, flip, lambda file: file.unlink()], ids=["truncated", "flipped", "missing"]
)
@pytest.mark.parametrize("name", ["shard-0000-00001.safetensors", "parts/rows-0000-00001.jsonl"])
def test_what_is_damaged_is_named_and_computed_again(unfinished, explained, harm, name):
    harm(unfinished / name)
    (damage,) = parts.reopen(unfinished, len(TEXTS))
    assert name in damage
    assert parts.done(unfinished, len(TEXTS)) == indices(explained[:2] + explained[4:6]), (
        "nothing else is lost"
    )
    assert not (unfinished / name).exists()
    write(unfinished, explained[2:4] + explained[6:], process=2)
    parts.assemble(unfinished, len(TEXTS))
    assert [one.attributions.shape[0] for one in aa.load_attributions(unfinished)] == [2] * len(
        TEXTS
    )


def forge(text, **changes):
    """Change parts in a manifest, and make its checksums right."""
    records = [json.loads(line)[1:] for line in text.splitlines()]
    return "".join(files.Journal.line(name, part | changes) for name, part in records)


@pytest.mark.parametrize(
    ("change", "kept", "said"),  # kept: which of the two parts
    [
        (lambda text: text[: len(text) // 2 + 9], [0], "line 2: damaged"),
        (lambda text: "{]\n" + text, [0, 1], "line 1: damaged"),
        (lambda text: text.replace('"indices": [', '"indices": [1', 1), [1], "line 1: damaged"),
        (lambda text: text + text, [0, 1], None),
        (
            lambda text: forge(text, rows={"file": "../../../etc/passwd"}),
            [],
            "must be named as this program",
        ),
        (lambda text: forge(text, indices=[7000]), [], "different numbers from 0 to below 7"),
        (
            lambda text: forge(text, arrays={"file": "shard-0000-00000.safetensors"}),
            [],
            "size or SHA-256",
        ),
        (lambda text: "[" * 50_000, [], "damaged"),
        (lambda text: "", [], None),
    ],
)
def test_damaged_manifest(unfinished, explained, change, kept, said):
    manifest = unfinished / "parts" / "manifest-0000.jsonl"
    manifest.write_text(change(manifest.read_text()))
    damage = parts.reopen(unfinished, len(TEXTS))
    assert any(said in line for line in damage) if said else not damage, damage
    assert parts.done(unfinished, len(TEXTS)) == indices(
        [one for at in (*kept, 2) for one in explained[2 * at : 2 * at + 2]]
    )
    left = {file.name for file in unfinished.glob("shard-*")}
    assert len(left) == len(kept) + 1, "what nothing names is deleted"


def test_killed_between_any_two_writes(explained, tmp_path, monkeypatch):
    """A process that dies before any of its writes to disk leaves a folder that goes on to the same
    data set.
    """
    write(tmp_path / "whole", explained)
    parts.assemble(tmp_path / "whole", len(TEXTS))
    expected = (tmp_path / "whole" / "examples.jsonl").read_bytes()

    class Killed(BaseException):
        pass

    left = 0

    def count_down(real):
        def write_or_die(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        return write_or_die

    monkeypatch.setattr(files.os, "replace", count_down(files.os.replace))
    monkeypatch.setattr(files.Journal, "put", count_down(files.Journal.put))
    monkeypatch.setattr(parts.shutil, "rmtree", count_down(shutil.rmtree))
    for kill_at in range(100):
        folder = tmp_path / f"killed-{kill_at}"
        left = kill_at
        died = False
        try:
            write(folder, explained)
            parts.assemble(folder, len(TEXTS))
        except Killed:
            died = True
        left = 10_000
        assert parts.reopen(folder, len(TEXTS)) == []
        done = parts.done(folder, len(TEXTS))
        write(folder, [one for one in explained if one.index not in done], process=1)
        parts.assemble(folder, len(TEXTS))
        found = (folder / "examples.jsonl").read_bytes()
        assert [json.loads(line)["text"] for line in found.splitlines()] == TEXTS
        if not died:
            break
    assert not died and kill_at > 10 and found == expected


@pytest.mark.parametrize(
    "name", ["shard-0000-00002.safetensors", "examples.jsonl", "manifest.json"]
)
def test_damage_in_a_finished_run_is_found_and_mended(assembled, explained, name):
    expected = [
        json.loads(line) for line in (assembled / "examples.jsonl").read_text().splitlines()
    ]
    assert parts.reopen(assembled, len(TEXTS)) == [] and parts.done(
        assembled, len(TEXTS)
    ) == indices(explained)
    truncate(assembled / name)
    (damage,) = parts.reopen(assembled, len(TEXTS))
    assert name in damage
    done = parts.done(assembled, len(TEXTS))
    assert done == (
        indices(explained) - indices(explained[4:6]) if name.startswith("shard") else set()
    )
    write(assembled, [one for one in explained if one.index not in done], process=1)
    parts.assemble(assembled, len(TEXTS))
    rows = read_jsonl(assembled / "examples.jsonl")
    assert [row | {"arrays": None} for row in rows] == [row | {"arrays": None} for row in expected]


def test_an_unfinished_run_is_not_taken_for_a_data_set(unfinished):
    with pytest.raises(aa.InputError, match="unfinished run: attribute.py with --resume"):
        aa.load_attributions(unfinished)
    with pytest.raises(aa.InputError, match=r"1 examples are missing \(6\)"):
        parts.assemble(unfinished, len(TEXTS))
    assert not (unfinished / "examples.jsonl").exists()


def test_a_damaged_shard_is_not_put_together(unfinished, explained):
    write(unfinished, explained[6:], process=2)
    flip(unfinished / "shard-0001-00000.safetensors")
    with pytest.raises(aa.InputError, match="is damaged: --resume computes its examples again"):
        parts.assemble(unfinished, len(TEXTS))


def test_an_example_that_is_there_twice_is_refused(unfinished, explained):
    write(unfinished, explained[1:2] + explained[6:], process=2)
    with pytest.raises(aa.InputError, match="is there twice"):
        parts.assemble(unfinished, len(TEXTS))
    assert "is there already" in parts.reopen(unfinished, len(TEXTS))[0]


def test_time_bounds_what_a_kill_loses(explained, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_SECONDS", -1)
    writer = parts.ExplanationWriter(tmp_path, "none")
    writer.add(explained[0])
    assert parts.done(tmp_path, len(TEXTS)) == indices(explained[:1])
