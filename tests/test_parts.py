"""Folders of explanations that are not finished, are damaged, or both."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from conftest import assemble, read_jsonl

import attattr_jax as aa
from attattr_jax.attribution.options import AttributionOptions
from attattr_jax.data.batches import encode
from attattr_jax.data.splits import Split
from attattr_jax.explanations import manifest, parts
from attattr_jax.explanations.explain import explain
from attattr_jax.explanations.explanation import Explanation
from attattr_jax.explanations.summary import DatasetSummary
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
    assemble(tmp_path, len(TEXTS))
    return tmp_path


def indices(explained):
    return {one.index for one in explained}


@pytest.mark.parametrize("save", ["none", "summary", "full"])
def test_readers_see_one_data_set_whatever_the_number_of_writers(explained, tmp_path, save):
    for name, num_writers in (("one", 1), ("three", 3)):
        for process in range(num_writers):
            write(tmp_path / name, explained[process::num_writers], process, save)
        assemble(tmp_path / name, len(TEXTS), num_writers)
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
    assemble(tmp_path, len(TEXTS))
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
    assemble(unfinished, len(TEXTS))
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
    assemble(tmp_path / "whole", len(TEXTS))
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
            assemble(folder, len(TEXTS))
        except Killed:
            died = True
        left = 10_000
        assert parts.reopen(folder, len(TEXTS)) == []
        done = parts.done(folder, len(TEXTS))
        write(folder, [one for one in explained if one.index not in done], process=1)
        assemble(folder, len(TEXTS))
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
    assemble(assembled, len(TEXTS))
    rows = read_jsonl(assembled / "examples.jsonl")
    assert [row | {"arrays": None} for row in rows] == [row | {"arrays": None} for row in expected]


def test_an_unfinished_run_is_not_taken_for_a_data_set(unfinished):
    with pytest.raises(aa.InputError, match="unfinished run: attribute.py with --resume"):
        aa.load_attributions(unfinished)
    with pytest.raises(aa.InputError, match=r"1 examples are missing \(6\)"):
        assemble(unfinished, len(TEXTS))
    assert not (unfinished / "examples.jsonl").exists()


def test_a_damaged_shard_is_not_put_together(unfinished, explained):
    write(unfinished, explained[6:], process=2)
    flip(unfinished / "shard-0001-00000.safetensors")
    with pytest.raises(aa.InputError, match="is damaged: --resume computes its examples again"):
        assemble(unfinished, len(TEXTS))


def test_an_example_that_is_there_twice_is_refused(unfinished, explained):
    write(unfinished, explained[1:2] + explained[6:], process=2)
    with pytest.raises(aa.InputError, match="is there twice"):
        assemble(unfinished, len(TEXTS))
    assert "is there already" in parts.reopen(unfinished, len(TEXTS))[0]


def test_time_bounds_what_a_kill_loses(explained, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_SECONDS", -1)
    writer = parts.ExplanationWriter(tmp_path, "none")
    writer.add(explained[0])
    assert parts.done(tmp_path, len(TEXTS)) == indices(explained[:1])


def values(num_examples, seed=0):
    """Head importances whose float64 sum depends on its order."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, 2, 3)) * 10.0 ** rng.integers(
        -12, 6, (num_examples, 2, 3)
    )


def example(explained, index, importance):
    """An explanation of which all that a summary sees differs from the others'."""
    row = explained[index % len(explained)].row
    layers = len(row["layers"])
    return Explanation(
        row
        | {
            "index": index,
            "head_importance": importance.tolist(),
            "converged": [index % 3 > 0] * layers,
            "convergence_deltas": [0.01 * (index % 5)] * layers,
            "error_estimates": [0.003 * (index % 5)] * layers,
        },
        {},
    )


def test_a_summary_does_not_depend_on_how_the_examples_were_divided(explained):
    importances = values(1200)
    examples = [example(explained, index, each) for index, each in enumerate(importances)]
    whole = DatasetSummary()
    for one in examples:
        whole.add(one)
    merged = DatasetSummary()
    for process in (2, 0, 1):
        part = DatasetSummary()
        for one in reversed(examples[process::3]):
            part.add(one)
        merged.merge(DatasetSummary.from_json(json.loads(json.dumps(part.to_json()))))
    assert merged.to_json() == whole.to_json()
    exact = [
        float(sum(map(Fraction, column)) / len(importances))
        for column in importances.reshape(len(importances), -1).T.tolist()
    ]
    np.testing.assert_allclose(merged.importance.ravel(), exact, rtol=2.3e-16)
    assert whole.worst == (0.012, 4, 0) and whole.num_rough == 240
    assert whole.rough_layers == {0: 240, 1: 240}
    assert len(whole.not_converged) == 100 and whole.num_not_converged == 400 * 2
    assert whole.not_converged[:3] == [
        {"example": 0, "layer": 0},
        {"example": 0, "layer": 1},
        {"example": 3, "layer": 0},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_examples", -1),
        ("importance", [[["x"]]]),
        ("importance", [[[0.0]], [[0.0, 1.0]]]),
        ("n_steps", [[float("inf")]]),
        ("worst", [0.1]),
        ("rough_layers", [["x", 1]]),
        ("not_converged", [{"example": 1}]),
        ("token_pairs", [[1.0, 0, 0, 0, 1.0, "a", 3]]),
    ],
)
def test_a_damaged_summary_is_refused(explained, name, value):
    summary = DatasetSummary()
    summary.add(explained[0])
    with pytest.raises(ValueError, match="the summary is damaged"):
        DatasetSummary.from_json(summary.to_json() | {name: value})


def as_by_the_version_before(folder):
    """Make a finished folder's manifest what it was before rows were listed by blocks."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"], content["summary"]
    content["rows"] = manifest.entry_of(folder / "examples.jsonl")
    files.write_json(folder / "manifest.json", content | {"sha256": files.json_digest(content)})


def test_runs_of_the_version_before(assembled, explained, tmp_path):
    summary = DatasetSummary()
    for one in explained:
        summary.add(one)
    as_by_the_version_before(assembled)
    assert assemble(assembled, len(TEXTS)).to_json() == summary.to_json()
    assert [one.text for one in aa.load_attributions(assembled)] == TEXTS
    # An unfinished one, without lengths and summaries, its rows in the order of their computation
    unfinished = tmp_path / "unfinished"
    write(unfinished, explained)
    journal = unfinished / "parts" / "manifest-0000.jsonl"
    lines = []
    for name, part in [json.loads(line)[1:] for line in journal.read_text().splitlines()]:
        rows = unfinished / "parts" / name
        rows.write_bytes(b"".join(reversed(rows.read_bytes().splitlines(keepends=True))))
        old = {"indices": part["indices"][::-1], "arrays": part["arrays"]}
        lines.append(files.Journal.line(name, old | {"rows": manifest.entry_of(rows)}))
    journal.write_text("".join(lines))
    with pytest.raises(aa.InputError, match="by an earlier version: --resume reads it"):
        assemble(unfinished, len(TEXTS))
    assert parts.reopen(unfinished, len(TEXTS)) == []
    assert assemble(unfinished, len(TEXTS)).to_json() == summary.to_json()
    assert [row["text"] for row in read_jsonl(unfinished / "examples.jsonl")] == TEXTS


def test_damage_costs_the_rows_of_its_block_alone(explained, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "BLOCK_ROWS", 2)
    write(tmp_path, explained)
    assemble(tmp_path, len(TEXTS), num_processes=3)
    rows = tmp_path / "examples.jsonl"
    content = rows.read_bytes()
    assert TEXTS[3].encode() in content
    rows.write_bytes(content.replace(TEXTS[3].encode(), TEXTS[3].upper().encode()))
    stored = aa.load_attributions(tmp_path)
    assert [stored[index].text for index in (0, 1, 4, 5, 6)] == [*TEXTS[:2], *TEXTS[4:]]
    with pytest.raises(aa.InputError, match=r"examples.jsonl is damaged: not what attribute.py"):
        stored[2]
    (damage,) = parts.reopen(tmp_path, len(TEXTS))
    assert damage == f"{rows} is damaged: 2 of its rows"
    assert parts.done(tmp_path, len(TEXTS)) == indices(explained) - {2, 3}
    write(tmp_path, [one for one in explained if one.index in (2, 3)], process=1)
    assemble(tmp_path, len(TEXTS))
    assert [row["text"] for row in read_jsonl(rows)] == TEXTS
