"""Options: how they are read, what `--help` shows and imports, and what single ones do."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import read_jsonl

import attattr_jax as aa
from attattr_jax.commands import (
    attribute,
    attribute_options,
    options,
    prune_options,
    train,
    train_options,
)

SCRIPTS = {
    "attribute": attribute_options.Options,
    "prune": prune_options.Options,
    "train": train_options.Options,
}
TEXTS = ["--text", "the film is good , never dull .", "--text", "a bad plot", "--text", "fine ."]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--max_examples 3", {"max_examples": 3}),
        ("--max-examples=3", {"max_examples": 3}),
        ("--tree_penalty 1e-2", {"tree_penalty": 0.01}),
        ("--resume", {"resume": True}),
        ("--resume false", {"resume": False}),
        ("--resume=Yes --overwrite 0", {"resume": True, "overwrite": False}),
        ("--text a --text b", {"text": ["a", "b"]}),
        ("--objective logit --save none", {"objective": "logit", "save": "none"}),
        ("", {"text": [], "target": "predicted", "max_examples": None, "n_steps": "20"}),
    ],
)
def test_what_a_command_line_means(arguments, expected):
    given = options.parse(attribute_options.Options, "", arguments.split())
    assert {name: getattr(given, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--objective loss", "argument --objective: invalid choice: 'loss'"),
        (
            "--max_examples many",
            "argument --max_examples/--max-examples: invalid int value: 'many'",
        ),
        ("--resume perhaps", "Truthy value expected: got perhaps"),
        ("--max_ex 3", "unrecognized arguments: --max_ex 3"),
        ("--text", "argument --text: expected one argument; a value that begins with -"),
        ("--seed -1", "--seed must be from 0 to 4294967295, not -1"),
        ("--export=", "--export is empty: give a value or leave it out"),
    ],
)
def test_what_no_command_line_may_say(arguments, message):
    with pytest.raises(aa.InputError, match=message):
        options.parse(attribute_options.Options, "", arguments.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_option_under_a_heading(script, capsys):
    with pytest.raises(SystemExit):
        options.parse(SCRIPTS[script], "what it does", ["--help"])
    shown = capsys.readouterr().out
    names = {field.name for field in SCRIPTS[script].__dataclass_fields__.values()}
    assert all(f"--{name}" in shown for name in names)
    assert shown.index(f"{options.FIRST}:") < shown.index(f"{options.RUN}:")
    first = shown[shown.index(f"{options.FIRST}:") :].split("\n\n")[0]
    assert 8 <= first.count("\n  --") <= 12


@pytest.mark.parametrize("script", [*SCRIPTS, "correlate"])
def test_help_imports_no_slow_library(script):
    code = (
        "import sys, attattr_jax_start\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try:\n"
        f"    attattr_jax_start.{script}()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "slow = {'jax', 'flax', 'datasets', 'transformers', 'matplotlib', 'scipy', 'pyarrow'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "usage: " in ended.stdout


def test_every_option_is_marked_as_it_is_compared():
    """Options that only start or show a run; others are compared by --resume."""
    assert set(options.names_with(attribute_options.Options, "starts_run")) == {
        "overwrite",
        "resume",
        "shard_params",
        "distributed",
        "coordinator_address",
        "num_processes",
        "process_id",
    }
    views = options.names_with(attribute_options.Options, "is_view")
    assert {"figures", "report_examples", "num_printed"} < set(views)
    assert not {"save", "num_pairs", "n_steps"} & set(views)


@pytest.fixture(scope="module")
def explained(tiny_folder, tmp_path_factory):
    """The rows of the three texts, and what was printed, with these options."""

    def explain(capsys, arguments):
        folder = tmp_path_factory.mktemp("explained") / "out"
        common = ["--checkpoint", str(tiny_folder), "--output_dir", str(folder)]
        common += ["--n_steps", "3", "--layers", "1", "--report_examples", "0"]
        assert attribute.main([*common, *TEXTS, *arguments.split()]) == 0
        return read_jsonl(folder / "examples.jsonl"), capsys.readouterr().out

    return explain


def test_attribute_objective_pairs_tokens_and_printing(explained, capsys):
    arguments = "--objective logit --num_pairs 2 --skip_token_attributions --num_printed 1"
    rows, printed = explained(capsys, arguments)
    for row in rows:
        assert row["score"] == pytest.approx(row["logits"][row["target"]], abs=1e-5)
        assert len(row["token_pairs"]) == len(row["heads"]) == 2
        assert row["token_attributions"] is None and row["token_n_steps"] is None
    assert "\n[0] " in "\n" + printed and "[1] " not in printed
    assert "… and 2 more in" in printed and "integrated gradients" not in printed


def test_attribute_step_batch_size_changes_no_number(explained, capsys):
    rows, printed = explained(capsys, "--step_batch_size 1 --skip_token_attributions")
    others, _ = explained(capsys, "--skip_token_attributions")
    assert printed.count("\n  Predicted ") == 3
    for row, other in zip(rows, others, strict=True):
        assert 4 <= len(row["token_pairs"]) <= 10
        np.testing.assert_allclose(row["head_importance"], other["head_importance"], atol=1e-6)


def test_train_takes_the_first_examples_and_the_named_columns(tiny_folder, tmp_path):
    """--max_train_examples, --max_eval_examples, --text_pair_column."""
    data = tmp_path / "data"
    data.mkdir()
    lines = ["first\tsecond\tlabel"]
    lines += [f"the film is good\ta bad plot {'.' * (row % 2)}\t{row % 2}" for row in range(12)]
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text("\n".join(lines) + "\n")
    model = tmp_path / "model"
    command = f"--model {tiny_folder} --dataset {data} --output_dir {model} --num_train_epochs 1"
    command += " --max_train_examples 6 --max_eval_examples 5 --train_batch_size 3"
    command += " --text_column first --text_pair_column second --max_seq_length 24"
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(command.split()) == 0
    run = json.loads((model / "run.json").read_text())
    assert run["results"]["num_steps"] == 2  # six examples
    assert run["options"]["text_pair_column"] == "second"


def test_max_eval_examples_and_pairs_are_what_is_evaluated(tiny_folder, tmp_path, capsys):
    file = tmp_path / "pairs.tsv"
    rows = ["first\tsecond\tthird\tlabel", *["the film\ta plot\tbad\tpositive"] * 4]
    file.write_text("\n".join(rows) + "\n")
    command = f"--model {tiny_folder} --dataset {file} --eval_only --max_eval_examples 3"
    shown = []
    for column in ("second", "third"):
        columns = f" --text_column first --text_pair_column {column}"
        assert train.main((command + columns).split()) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert [result["eval_examples"] for result in shown] == [3, 3]
    assert shown[0]["eval_loss"] != shown[1]["eval_loss"], "the second text is the named column"
