import csv
import json
import weakref

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors
import safetensors.numpy

import attattr_jax as aa
from attattr_jax.explanations.explanation import Explanation
from attattr_jax.views import export

ALL_FORMATS = export.TABLE_FORMATS + export.EXAMPLE_FORMATS
HOSTILE = ["[CLS]", ",", '"', 'a\n"b', "", "##é\u2028"]


def explanation(
    index=0,
    layers=(0, 1, 2),
    tokens=("[CLS]", "a", "##b", "c", "d", "[SEP]"),
    second=None,
    num_heads=2,
    kind=Explanation,
):
    """An example with random arrays, of which many values are equal; the second segment starts at
    `second`.
    """
    random, count = np.random.default_rng(index), len(tokens)
    shape = (len(layers), num_heads, count, count)
    attributions = np.round(random.normal(size=shape), 1).astype(np.float32) / 8
    arrays = {
        "attributions": attributions,
        "attention_probs": random.dirichlet(np.ones(count), shape[:-1]).astype(np.float32),
        "head_importance": attributions.max(axis=(2, 3)),
        "token_pairs": attributions.sum(axis=(0, 1)),
    }
    for values in arrays.values():
        values.flags.writeable = False  # as JAX hands them over
    row = {
        "index": index,
        "text": "a\u2028b",
        "tokens": list(tokens),
        "layers": list(layers),
        "target": "good",
        "arrays": None,
    }
    return kind(
        {
            **row,
            "token_type_ids": [int(second is not None and at >= second) for at in range(count)],
        },
        arrays,
    )


def test_table_has_the_largest_of_the_stored_values_in_order():
    example = explanation(7, layers=(4, 1))
    table = export.table_of(example, 50)
    entries = [
        (-abs(value), example.layers[at[0]], *at)
        for at, value in np.ndenumerate(example.attributions)
    ]
    # Position breaks no tie that the layer's number leaves
    expected = [entry[2:] for entry in sorted(entries)]
    assert abs(example.attributions[expected[49]]) == abs(example.attributions[expected[50]]), (
        "the cut must be within a tie"
    )
    rows = table.to_pylist()
    assert [
        ([4, 1].index(row["layer"]), row["head"], row["from"], row["to"]) for row in rows
    ] == expected[:50]
    for row, at in zip(rows, expected, strict=False):
        assert (
            row["attribution"] == example.attributions[at]
            and row["attention"] == example.attention_probs[at]
        )
        assert (row["from_token"], row["to_token"]) == (
            example.tokens[at[2]],
            example.tokens[at[3]],
        ) and row["example"] == 7
    assert table.schema.types == [pa.int32()] * 5 + [pa.string()] * 2 + [pa.float32()] * 2
    assert len(export.table_of(example, 10**6)) == example.attributions.size
    with pytest.raises(aa.InputError, match="top_k must be 1 or more"):
        export.table_of(example, 0)


@pytest.mark.parametrize("rows_at_once", [1, 15, 10**6])
def test_tables_agree_and_keep_any_token(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(export, "ROWS_AT_ONCE", rows_at_once)
    examples = [explanation(index, tokens=HOSTILE) for index in (3, 0, 12)]
    for name in export.TABLE_FORMATS:
        export.write_table(iter(examples), tmp_path / "new" / f"table.{name}", 10)
    expected = pa.concat_tables([export.table_of(example, 10) for example in examples])
    assert pyarrow.parquet.read_table(tmp_path / "new" / "table.parquet").equals(expected)
    with open(tmp_path / "new" / "table.csv", encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    assert (
        names
        == expected.column_names
        == "example layer head from to from_token to_token attribution attention".split()
    )
    for name, *values in zip(names, *rows, strict=True):
        assert (
            pa.array(values).cast(expected.schema.field(name).type).to_pylist()
            == expected[name].to_pylist()
        )


def test_tables_of_no_examples_have_their_columns(tmp_path):
    assert export.export([], tmp_path, ALL_FORMATS) == [
        tmp_path / "attributions.parquet",
        tmp_path / "attributions.csv",
        tmp_path,
    ]
    table = pyarrow.parquet.read_table(tmp_path / "attributions.parquet")
    assert not len(table) and table.schema == export.table_of(explanation()).schema
    assert (tmp_path / "attributions.csv").read_text().replace('"', "").split() == [
        ",".join(table.column_names)
    ]


def test_files_of_an_example_give_back_what_it_has(tmp_path):
    example, part = explanation(12, tokens=HOSTILE), explanation(100000, layers=(2,))
    export.write_example_files([example], tmp_path, tree_threshold=0.2, tree_penalty=0.01)
    export.write_example_files([part], tmp_path, ["npz"])
    endings = ("npz", "safetensors", "tree.dot", "tree.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *(f"00012.{ending}" for ending in endings),
        "100000.npz",
    ]
    for one in (example, part):
        with np.load(tmp_path / f"{one.index:05d}.npz", allow_pickle=False) as file:
            assert file["tokens"].tolist() == one.tokens and file["layers"].tolist() == one.layers
            assert set(file) == {*one.array_names, "tokens", "layers"}
            for name in one.array_names:
                np.testing.assert_array_equal(file[name], one.array(name), strict=True)
    stored = safetensors.numpy.load_file(tmp_path / "00012.safetensors")
    assert sorted(stored) == example.array_names
    for name, values in stored.items():
        np.testing.assert_array_equal(values, example.array(name), strict=True)
    with safetensors.safe_open(tmp_path / "00012.safetensors", "numpy") as file:
        row = json.loads(file.metadata()["row"])
    assert row == {name: value for name, value in example.row.items() if name != "arrays"}
    tree = example.tree(0.2, 0.01)
    assert len(tree.nodes) > 2 and tree.to_dict() != example.tree().to_dict()
    assert json.loads((tmp_path / "00012.tree.json").read_text()) == tree.to_dict()
    assert (tmp_path / "00012.tree.dot").read_text() == tree.to_dot()


def test_bertviz_gets_each_sign_on_one_scale():
    example = explanation()
    shown = {what: export.to_bertviz(example, what) for what in export.BERTVIZ_VALUES}
    for arguments in shown.values():
        assert set(arguments) == {"attention", "tokens"} and arguments["tokens"] == example.tokens
        assert [
            (each.shape, each.dtype, each.flags.writeable) for each in arguments["attention"]
        ] == [((1, 2, 6, 6), np.float32, True)] * 3
    stacked = {what: np.concatenate(arguments["attention"]) for what, arguments in shown.items()}
    np.testing.assert_array_equal(stacked["attention_probs"], example.attention_probs)
    positive, negative = stacked["attributions"], stacked["negative_attributions"]
    scale = np.abs(example.attributions).max()
    assert positive.min() == negative.min() == 0 and max(positive.max(), negative.max()) == 1
    np.testing.assert_allclose((positive - negative) * scale, example.attributions, rtol=1e-6)
    with pytest.raises(
        aa.InputError, match="attributions, negative_attributions, attention_probs, not 'gradients'"
    ):
        export.to_bertviz(example, "gradients")


def test_bertviz_knows_segments_and_the_numbers_of_layers():
    example = explanation(layers=(3, 1), second=4)
    arguments = export.to_bertviz(
        example, "attention_probs", as_tensor=lambda values: ("tensor", values)
    )
    assert arguments["sentence_b_start"] == 4 and arguments["include_layers"] == [1, 3]
    assert [kind for kind, _ in arguments["attention"]] == ["tensor"] * 4
    np.testing.assert_array_equal(
        [arguments["attention"][layer][1][0] for layer in example.layers], example.attention_probs
    )
    nothing = Explanation(example.row, {"attributions": np.zeros_like(example.attributions)})
    assert not np.any(export.to_bertviz(nothing)["attention"])


def test_unknown_formats_are_named_and_nothing_is_written(tmp_path):
    folder = tmp_path / "new"
    for name in ("table.xlsx", "table"):
        with pytest.raises(
            aa.InputError, match=r"unknown format '(xlsx)?': there are parquet, csv$"
        ):
            export.write_table([], folder / name)
    with pytest.raises(
        aa.InputError,
        match=r"unknown format 'csv', 'pickle': there are npz, safetensors, json, dot$",
    ):
        export.write_example_files([], folder, ["npz", "csv", "pickle"])
    with pytest.raises(
        aa.InputError,
        match=r"unknown format 'xml': there are parquet, csv, npz, safetensors, json, dot$",
    ):
        export.export([], folder, ["xml", "csv"])
    assert not folder.exists()


def test_a_failure_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ROWS_AT_ONCE", 1)
    (tmp_path / "attributions.csv").write_text("of an earlier run")
    summary = explanation(1)
    summary = Explanation(summary.row, {"token_pairs": summary.array("token_pairs")})
    with pytest.raises(
        aa.InputError, match="example 1 was kept with only token_pairs, not 'attributions'"
    ):
        export.export([explanation(), summary], tmp_path, ALL_FORMATS, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *(f"00000.{ending}" for ending in ("npz", "safetensors", "tree.dot", "tree.json")),
        "attributions.csv",
    ]
    assert (tmp_path / "attributions.csv").read_text() == "of an earlier run"


def test_files_that_are_there_are_kept(tmp_path):
    there = [
        tmp_path / name
        for name in ("mine.csv", "attributions.parquet", "00000.npz", "00000.tree.dot")
    ]
    for file in there:
        file.write_text("mine")
    for write in (
        lambda **how: export.write_table([explanation()], tmp_path / "mine.csv", **how),
        lambda **how: export.export([explanation()], tmp_path, ["parquet"], **how),
        lambda **how: export.write_example_files(
            [explanation()], tmp_path, ["safetensors", "npz"], **how
        ),
        lambda **how: export.write_example_files([explanation()], tmp_path, ["dot"], **how),
    ):
        with pytest.raises(
            aa.InputError, match=r"exists: name another file, or give overwrite=True$"
        ):
            write()
        assert sorted(tmp_path.iterdir()) == sorted(there) and {
            file.read_text() for file in there
        } == {"mine"}
    # The second of them: nothing of the first is written
    with pytest.raises(aa.InputError, match="00000.npz exists"):
        export.write_example_files([explanation(index=7), explanation()], tmp_path, ["npz"])
    assert sorted(tmp_path.iterdir()) == sorted(there)
    for file in there:
        file.unlink()
        file.symlink_to("nowhere")
    with pytest.raises(aa.InputError, match="exists"):
        export.write_table([explanation()], there[0])
    export.write_table([explanation()], there[0], overwrite=True)
    assert there[0].read_text().startswith('"example"')


def test_half_precision_is_exported_as_float32(tmp_path):
    """NumPy's files have no bfloat16: it would come back as two bytes of nothing."""
    example = explanation()
    probs = example.attention_probs.astype(ml_dtypes.bfloat16)
    half = Explanation(example.row, {**example._arrays, "attention_probs": probs})
    export.write_example_files([half], tmp_path)
    with np.load(tmp_path / "00000.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(
            file["attention_probs"], probs.astype(np.float32), strict=True
        )
    stored = safetensors.numpy.load_file(tmp_path / "00000.safetensors")["attention_probs"]
    np.testing.assert_array_equal(stored, probs.astype(np.float32), strict=True)


def test_examples_are_taken_one_at_a_time_and_read_once(tmp_path):
    reads, alive = [], []

    class Stored(Explanation):
        def _read(self, name):
            values = self._arrays[name].copy()
            reads.append((self.index, name))
            alive.append(weakref.ref(values))
            return values

    def examples():
        for index in range(3):
            yield explanation(index, kind=Stored)
            assert not any(reference() is not None for reference in alive), (
                "arrays of an earlier example are still held"
            )

    export.export(examples(), tmp_path, ALL_FORMATS)
    assert sorted(reads) == [
        (index, name) for index in range(3) for name in explanation().array_names
    ]
