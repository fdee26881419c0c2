"""The scripts as users run them: what they write, and one clear line for everything that cannot
work.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import read_jsonl

import attattr_jax as aa
from attattr_jax.commands import attribute, cli, correlate, prune, train
from attattr_jax.data.splits import Split
from attattr_jax.explanations import parts
from attattr_jax.pruning import costs, experiment
from attattr_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROOT = Path(__file__).parent.parent


def words(command, **paths):
    return [part.format(**paths) for part in command.split()]


def test_train_writes_what_it_promises(trained_folder, tiny_folder, reviews_folder):
    names = {file.name for file in trained_folder.iterdir() if file.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "run.json",
    } <= names
    lines = read_jsonl(trained_folder / "metrics.jsonl")
    best = max(line["eval_accuracy"] for line in lines if "eval_accuracy" in line)
    assert best > 0.85, "the task is easy"
    run = json.loads((trained_folder / "run.json").read_text())
    assert run["finished"] and run["script"] == "train" and run["wall_seconds"] > 0
    assert run["options"]["learning_rate"] == 5e-3 and run["dataset_path"] == str(reviews_folder)
    assert set(run["data_fingerprints"]) == {"train", "validation"} and run["packages"]["jax"]
    assert run["results"]["eval_accuracy"] == best
    assert run["initial_model_fingerprint"] == aa.load_classifier(tiny_folder).fingerprint()
    assert (
        run["model_fingerprint"]
        == aa.load_classifier(trained_folder).fingerprint()
        != run["initial_model_fingerprint"]
    )


def test_eval_only_gives_the_same_metrics(trained_folder, reviews_folder, capsys):
    assert (
        train.main(
            words("--model {m} --dataset {d} --eval_only", m=trained_folder, d=reviews_folder)
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    results = json.loads((trained_folder / "run.json").read_text())["results"]
    assert found["eval_accuracy"] == results["eval_accuracy"] and found["eval_examples"] == 15
    assert found["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-5)


def test_train_resumes_and_refuses_another_recipe(
    trained_folder, tiny_folder, reviews_folder, tmp_path, capsys
):
    folder = tmp_path / "films"
    shutil.copytree(trained_folder, folder)
    # As if it had been killed after its last checkpoint.
    (folder / "model.safetensors").unlink()
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"finished": False}))
    command = (
        "--model {m} --dataset {d} --output_dir {o} --num-train-epochs 5 --train-batch-size 8"
        " --learning-rate 5e-3 --logging-steps 3 --save-steps 4 --max-seq-length 16 --resume"
    )
    assert train.main(words(command, m=tiny_folder, d=reviews_folder, o=folder)) == 0
    again, before = aa.load_classifier(folder), aa.load_classifier(trained_folder)
    assert again.fingerprint() == before.fingerprint()
    assert read_jsonl(folder / "metrics.jsonl") == read_jsonl(trained_folder / "metrics.jsonl")
    capsys.readouterr()
    finished = (folder / "run.json").read_text()
    assert train.main(words(command, m=tiny_folder, d=reviews_folder, o=folder)) == 0
    assert (
        "is finished" in capsys.readouterr().out and (folder / "run.json").read_text() == finished
    )
    # What is lost is made again.
    (folder / "model.safetensors").unlink()
    assert train.main(words(command, m=tiny_folder, d=reviews_folder, o=folder)) == 0
    assert (
        f"the classifier in {folder} is missing or has changed: it is made again"
        in capsys.readouterr().err
    )
    assert aa.load_classifier(folder).fingerprint() == before.fingerprint()
    # Another command is refused whether the run is finished or not.
    dropout = copy_of(tiny_folder, tmp_path / "dropout", "config.json", hidden_dropout_prob=0.6)
    cola = tmp_path / "CoLA"  # the same data, but epochs would be compared by another metric
    shutil.copytree(reviews_folder, cola)
    for state in (True, False):
        (folder / "run.json").write_text(json.dumps(run | {"finished": state}))
        for changed, model, dataset, message in (
            (
                command.replace("5e-3", "1e-3"),
                tiny_folder,
                reviews_folder,
                "--learning_rate is 0.001, but the run in",
            ),
            (command, tmp_path / "missing", reviews_folder, "missing: no such folder"),
            (
                command,
                dropout,
                reviews_folder,
                (
                    "(initial_model_fingerprint), or an earlier version began it: --overwrite"
                    " starts anew"
                ),
            ),
            (command, tiny_folder, cola, "task_metric is 'matthews', but the run in"),
        ):
            assert train.main(words(changed, m=model, d=dataset, o=folder)) == 2
            assert message in capsys.readouterr().err.splitlines()[-1]


def copy_of(folder, new, file, **fields):
    """Return a copy of a folder in which fields of a JSON file are others."""
    shutil.copytree(folder, new)
    (new / file).write_text(json.dumps(json.loads((new / file).read_text()) | fields))
    return new


def contents(folder):
    """Return what is in a folder, but for the lock."""
    return {
        file: file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_an_attribution_is_not_resumed_with_another_model(trained_folder, tmp_path, capsys):
    output, texts = tmp_path / "out", tmp_path / "texts.txt"
    texts.write_text("good film\nbad plot\n")
    command = (
        "--checkpoint {c} --n_steps 2 --save none --report_examples 0 --text_file {t}"
        " --output_dir {o}"
    )
    assert attribute.main(words(command, c=trained_folder, t=texts, o=output)) == 0
    run = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(run | {"finished": False}))
    before = contents(output)

    swapped = tmp_path / "swapped"
    shutil.copytree(trained_folder, swapped)
    text = (swapped / "tokenizer.json").read_text()
    (swapped / "tokenizer.json").write_text(
        text.replace('"good"', '"?"').replace('"bad"', '"good"').replace('"?"', '"bad"')
    )
    renamed = copy_of(
        trained_folder, tmp_path / "renamed", "config.json", id2label={"0": "bad", "1": "good"}
    )
    padded = copy_of(
        trained_folder, tmp_path / "padded", "tokenizer_config.json", pad_token="[MASK]"
    )
    for checkpoint in (swapped, renamed, padded):
        assert attribute.main(words(command + " --resume", c=checkpoint, t=texts, o=output)) == 2
        reason = (
            f"--resume: model or data have changed since the run in {output} began"
            " (model_fingerprint), or an earlier version began it"
        )
        assert reason in capsys.readouterr().err.splitlines()[-1]
        # Nor is its importance another model's.
        again = words(
            "--checkpoint {c} --importance {i} --output_dir {o}",
            c=checkpoint,
            i=output / "head_importance.json",
            o=tmp_path / "p",
        )
        assert prune.main(again) == 2
        assert (
            "another model (weights, configuration, class names or tokenizer), or by an earlier"
            " version" in capsys.readouterr().err
        )
    with jax.default_matmul_precision("highest"):
        assert (
            attribute.main(words(command + " --resume", c=trained_folder, t=texts, o=output)) == 2
        )
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"jax_config.jax_default_matmul_precision is 'highest', but the run in {output} was started"
        " with None" in last
    )
    assert contents(output) == before

    # Where model and texts lie, and how the run is shown, makes no difference; packages and the
    # device may.
    run["packages"]["jax"], run["device"] = "0.1", "8 x abacus (wood)"
    (output / "run.json").write_text(json.dumps(run))
    shutil.copytree(trained_folder, tmp_path / "moved")
    texts.rename(tmp_path / "moved.txt")
    for _ in range(2):
        assert (
            attribute.main(
                words(
                    command + " --resume", c=tmp_path / "moved", t=tmp_path / "moved.txt", o=output
                )
            )
            == 0
        )
        lines = capsys.readouterr().err.splitlines()
        # Two steps are few
        (line,) = [line for line in lines if not line.startswith("warning: rough: ")]
        assert line.startswith(
            f"warning: --resume: since the run in {output} began, jax 0.1 is now {jax.__version__},"
            " abacus (wood) is now "
        )
    assert json.loads((output / "run.json").read_text())["started_with"]["packages"]["jax"] == "0.1"


def test_a_run_of_an_earlier_version_is_not_resumed(trained_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {c} --n_steps 2 --save none --text good --output_dir {o}",
        c=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main(command) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    without_option = run | {
        "options": {name: value for name, value in run["options"].items() if name != "objective"}
    }
    without_config = {name: value for name, value in run.items() if name != "jax_config"}
    for record, message in (
        (without_option, "--objective is 'prob', but the run in"),
        (without_config, "jax_config.jax_enable_x64 is False, but the run in"),
    ):
        (tmp_path / "out" / "run.json").write_text(json.dumps(record))
        assert attribute.main([*command, "--resume"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert (
            message in last and "does not say what it was; did an earlier version begin it?" in last
        )


def test_a_pruning_is_not_resumed_with_other_lengths_data_or_importance(
    trained_folder, reviews_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    checkpoint, output, file = tmp_path / "model", tmp_path / "out", tmp_path / "films.tsv"
    shutil.copytree(trained_folder, checkpoint)
    shutil.copy(reviews_folder / "dev.tsv", file)
    command = (
        "--checkpoint {c} --dataset {f} --importance taylor --scoring_split validation"
        " --num_scoring_examples 6 --output_dir {o} --save_pruned {s}"
    )
    command = words(command, c=checkpoint, f=file, o=output, s=tmp_path / "smaller")
    assert prune.main(command) == 0
    run = json.loads((output / "run.json").read_text())
    assert (
        set(run["data_fingerprints"]) == {"scoring", "evaluation"} and run["max_seq_length"] == 16
    )
    finished = contents(tmp_path)
    capsys.readouterr()
    assert prune.main([*command, "--resume"]) == 0
    assert capsys.readouterr().out == f"the run in {output} is finished; --overwrite starts anew\n"
    assert contents(tmp_path) == finished

    # The labels of the scored examples are flipped, those of the evaluated ones stay.
    header, *lines = file.read_text().splitlines()
    hashes = Split("", "", [line.split("\t")[0] for line in lines], None, None).example_hashes()
    scored = json.loads((output / "head_importance.json").read_text())["examples"]
    flipped = [
        line[:-1] + str(1 - int(line[-1])) if digest in scored else line
        for line, digest in zip(lines, hashes, strict=True)
    ]
    lengths = json.loads((checkpoint / "run.json").read_text())
    lengths["options"]["max_seq_length"] = 8
    given = [*command, "--resume"]
    for state in (True, False):
        (output / "run.json").write_text(json.dumps(run | {"finished": state}))
        for changed, content, arguments, message in (
            (
                file,
                "\n".join([header, *flipped]) + "\n",
                given,
                "(data_fingerprints.scoring), or an earlier version began it",
            ),
            (
                checkpoint / "run.json",
                json.dumps(lengths),
                given,
                f"max_seq_length is 8, but the run in {output} was started with 16",
            ),
            (
                file,
                file.read_text(),
                [*given, "--checkpoint", str(tmp_path / "nowhere")],
                "nowhere: no such folder",
            ),
            (
                file,
                file.read_text(),
                [*given, "--save_pruned", str(tmp_path / "other")],
                "--save_pruned is",
            ),
        ):
            original = changed.read_text()
            changed.write_text(content)
            assert prune.main(arguments) == 2
            assert message in capsys.readouterr().err.splitlines()[-1]
            changed.write_text(original)
    assert not (tmp_path / "other").exists()

    # A finished run is not finished if its smaller model is another one; if that is gone, it is
    # made again.
    (output / "run.json").write_text(json.dumps(run))
    saved = tmp_path / "smaller" / "run.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"max_seq_length": 8}))
    assert prune.main(given) == 2
    assert (
        f"max_seq_length is 16, but the run in {saved.parent} was started with 8"
        in capsys.readouterr().err.splitlines()[-1]
    )
    expected = (tmp_path / "smaller" / "model.safetensors").read_bytes()
    for lose in (shutil.rmtree, lambda folder: (folder / "model.safetensors").write_bytes(b"")):
        lose(tmp_path / "smaller")
        assert prune.main(given) == 0
        assert (tmp_path / "smaller" / "model.safetensors").read_bytes() == expected

    # An importance file counts by what is in it.
    importance_file = tmp_path / "importance.json"
    shutil.copy(output / "head_importance.json", importance_file)
    command = words(
        "--checkpoint {c} --importance {i} --output_dir {o}",
        c=checkpoint,
        i=importance_file,
        o=tmp_path / "given",
    )
    assert prune.main(command) == 0
    moved = [
        (
            str(shutil.copy(importance_file, tmp_path / "moved.json"))
            if part == str(importance_file)
            else part
        )
        for part in command
    ]
    assert prune.main([*moved, "--resume"]) == 0
    record = json.loads(importance_file.read_text())
    importance_file.write_text(
        json.dumps(record | {"importance": np.negative(record["importance"]).tolist()})
    )
    assert prune.main([*command, "--resume"]) == 2
    assert (
        "(importance_fingerprint), or an earlier version began it"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_attribute_texts(trained_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {c} --n_steps 6 --output_dir {o} --skip_special_tokens",
        c=trained_folder,
        o=tmp_path / "out",
    )
    texts = ["the film is very good .", "the plot is dull\x1b[31m <script>"]
    assert attribute.main([*command, "--text", texts[0], "--text", texts[1]]) == 0
    printed = capsys.readouterr().out
    assert (
        "[0] the film is very good ." in printed
        and "strongest token pairs" in printed
        and "most important heads" in printed
    )
    assert "\x1b" not in printed and "\\x1b[31m" in printed, (
        "control characters are shown, not obeyed"
    )
    stored = aa.load_attributions(tmp_path / "out")
    assert [one.text for one in stored] == texts and stored[0].label is None
    assert stored.run["finished"] and stored.run["options"]["n_steps"] == 6
    length = len(stored[0].tokens)
    assert stored[0].attributions.shape == stored[0].attention_probs.shape == (2, 4, length, length)
    record = json.loads((tmp_path / "out" / "head_importance.json").read_text())
    assert {"measure", "num_examples", "target", "model", "importance"} <= set(record)
    assert np.shape(record["importance"]) == (2, 4) and record["num_examples"] == 2
    assert record["model"] == aa.load_classifier(trained_folder).fingerprint()
    expected = np.mean([one.array("head_importance") for one in stored], axis=0)
    np.testing.assert_allclose(record["importance"], expected, atol=1e-6)
    ends = [
        one.special_tokens_mask[pair[end]]
        for one in stored
        for pair in one.token_pairs
        for end in ("from", "to")
    ]
    assert ends and not any(ends)


def test_attribute_data_set(trained_folder, reviews_folder, tmp_path, capsys):
    command = (
        "--checkpoint {c} --dataset {d} --target gold --max_examples 9 --layers 1 --save summary"
        " --n_steps 4 --output_dir {o}"
    )
    assert (
        attribute.main(words(command, c=trained_folder, d=reviews_folder, o=tmp_path / "out")) == 0
    )
    printed = capsys.readouterr().out
    assert "and 4 more" in printed and "strongest token pairs of the data set" in printed
    stored = aa.load_attributions(tmp_path / "out")
    assert (
        len(stored) == 9
        and all(one.target == one.label for one in stored)
        and stored[0].layers == [1]
    )
    pairs = json.loads((tmp_path / "out" / "token_pairs.json").read_text())
    sizes = [abs(pair["attribution"]) for pair in pairs]
    assert sizes == sorted(sizes, reverse=True) and len(pairs) == 20


def test_attribute_writes_what_there_is_to_look_at(
    trained_folder, reviews_folder, tmp_path, capsys
):
    command = (
        "--checkpoint {c} --dataset {d} --max_examples 4 --n_steps 5 --token_n_steps 9 --output_dir"
        " {o} --report_examples 3 --figures png,svg --figure_examples 1 --export"
        " parquet,csv,npz,json --export_top_k 7 --tree_threshold 0.2"
    )
    output = tmp_path / "out"
    assert attribute.main(words(command, c=trained_folder, d=reviews_folder, o=output)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-6:-3] == [
        f"4 explanations: {output}",
        f"report: {output / 'report.html'} (left out: 1 more texts, which are in examples.jsonl)",
        f"figures: {output / 'figures'}",
    ]
    stored = aa.load_attributions(output)
    page = (output / "report.html").read_text()
    assert page.count("data-example") == 3 + 1, "three blocks, and the script that looks for them"
    assert (
        str(trained_folder) in page and stored[0].token_n_steps == 9 and stored[0].n_steps == [5, 5]
    )

    names = {
        "head_grid",
        "head",
        "token_pairs",
        "arcs",
        "tokens",
        "comparison",
        "tree",
        "convergence",
    }
    assert [folder.name for folder in (output / "figures").iterdir()] == ["00000"]
    assert {file.name for file in (output / "figures" / "00000").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }

    assert printed[-2] == f"export: {output / 'export' / 'attributions.csv'}"
    with open(output / "export" / "attributions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 7 and rows[0]["from_token"] == stored[0].tokens[int(rows[0]["from"])]
    tree = json.loads((output / "export" / "00003.tree.json").read_text())
    assert tree["threshold"] == 0.2 and tree["root"] == stored[3].tree().root

    command = (
        "--checkpoint {c} --n_steps 2 --overwrite --report_examples 0 --output_dir {o} --text good"
    )
    assert attribute.main(words(command, c=trained_folder, o=output)) == 0
    assert {file.name for file in output.iterdir()} == {
        ".lock",
        "examples.jsonl",
        "head_importance.json",
        "manifest.json",
        "run.json",
        "shard-0000-00000.safetensors",
    }


def test_attribute_with_as_many_steps_as_needed(trained_folder, reviews_folder, tmp_path, capsys):
    command = (
        "--checkpoint {c} --dataset {d} --max_examples 5 --layers 1,0 --save none --n_steps auto"
        " --max_steps 7 --output_dir {o}"
    )
    assert (
        attribute.main(
            words(
                command + " --tolerance 1e-9",
                c=trained_folder,
                d=reviews_folder,
                o=tmp_path / "out",
            )
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "integration steps by layer (mean): 1: 24.0  0: 5.0" in printed
        and "not within --tolerance 1e-09 with --max_steps 7: [0] layer 0" in printed
    )
    stored = aa.load_attributions(tmp_path / "out")
    assert all(example.n_steps == [24, 5] and not example.converged[1] for example in stored)
    results = stored.run["results"]
    assert results["mean_n_steps"] == [24, 5] and len(results["not_converged"]) >= 5


def test_attribute_along_the_joint_path(trained_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {c} --n_steps 8 --path joint --save none --output_dir {o} --text",
        c=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main([*command, "a good film"]) == 0
    assert " reads from " in capsys.readouterr().out
    (stored,) = aa.load_attributions(tmp_path / "out")
    assert (
        stored.path == "joint"
        and len(stored.baseline_scores) == len(stored.convergence_deltas) == 1
    )


def test_attribute_pairs_and_files(trained_folder, tmp_path):
    command = words(
        "--checkpoint {c} --n_steps 2 --save none --output_dir {o}",
        c=trained_folder,
        o=tmp_path / "pairs",
    )
    assert attribute.main([*command, "--text", "good film", "--text_pair", "bad plot"]) == 0
    row = read_jsonl(tmp_path / "pairs" / "examples.jsonl")[0]
    assert row["text_pair"] == "bad plot" and 1 in row["token_type_ids"]
    (tmp_path / "texts.txt").write_text("good film\nbad plot\n")
    command = (
        "--checkpoint {c} --n_steps 2 --save none --output_dir {o} --text_file {t} --target"
        " negative"
    )
    assert (
        attribute.main(
            words(command, c=trained_folder, o=tmp_path / "file", t=tmp_path / "texts.txt")
        )
        == 0
    )
    assert [row["target"] for row in read_jsonl(tmp_path / "file" / "examples.jsonl")] == [
        "negative",
        "negative",
    ]


def test_prune_top_heads_of_every_layer(trained_folder, reviews_folder, tmp_path, capsys):
    command = (
        "--checkpoint {c} --keep_per_layer 2 --num_scoring_examples 11 --n_steps 4 --output_dir {o}"
    )
    assert prune.main(words(command, c=trained_folder, o=tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "4 of 8 heads pruned" in printed and "accuracy" in printed
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert record["measure"] == "attribution" and (
        record["num_scoring_examples"],
        record["num_eval_examples"],
    ) == (11, 15)
    assert [len(heads) for heads in record["kept_heads"]] == [2, 2]
    assert [
        sorted(kept + pruned)
        for kept, pruned in zip(record["kept_heads"], record["pruned_heads"], strict=True)
    ] == [[0, 1, 2, 3]] * 2
    assert (
        record["accuracy_before"]
        == json.loads((trained_folder / "run.json").read_text())["results"]["eval_accuracy"]
    )
    importance = json.loads((tmp_path / "out" / "head_importance.json").read_text())
    assert importance["target"] == "gold"
    mask = aa.keep_top_heads(importance["importance"], per_layer=2)
    assert [np.flatnonzero(row).tolist() for row in mask] == record["kept_heads"]

    # The accuracy after is that of the mask, and the file can be used again.
    classifier = aa.load_classifier(trained_folder)
    rows = [line.split("\t") for line in (reviews_folder / "dev.tsv").read_text().splitlines()[1:]]
    batch = classifier.tokenize([row[0] for row in rows])
    logits, _ = aa.forward(classifier.params, batch, classifier.config, head_mask=mask)
    assert record["accuracy_after"] == pytest.approx(
        np.mean(np.asarray(logits).argmax(-1) == [int(row[1]) for row in rows])
    )
    command = "--checkpoint {c} --keep_per_layer 2 --importance {i} --output_dir {o}"
    file = tmp_path / "out" / "head_importance.json"
    assert prune.main(words(command, c=trained_folder, i=file, o=tmp_path / "again")) == 0
    assert (
        json.loads((tmp_path / "again" / "pruning.json").read_text())["kept_heads"]
        == record["kept_heads"]
    )


def test_prune_by_fraction_and_by_hand(trained_folder, tmp_path):
    command = "--checkpoint {c} --importance random --seed 3 --prune_fraction 0.4 --output_dir {o}"
    assert prune.main(words(command, c=trained_folder, o=tmp_path / "random")) == 0
    record = json.loads((tmp_path / "random" / "pruning.json").read_text())
    assert (
        sum(map(len, record["pruned_heads"])) == 3
        and record["measure"] == "random"
        and record["num_scoring_examples"] == 0
    )
    command = "--checkpoint {c} --prune_heads 0:1,2;1:0 --output_dir {o}"
    assert prune.main(words(command, c=trained_folder, o=tmp_path / "hand")) == 0
    assert json.loads((tmp_path / "hand" / "pruning.json").read_text())["pruned_heads"] == [
        [1, 2],
        [0],
    ]


def test_scored_and_evaluated_examples_are_disjoint(trained_folder, reviews_folder, tmp_path):
    command = (
        "--checkpoint {c} --scoring_split validation --num_scoring_examples 6 --n_steps 2"
        " --output_dir {o}"
    )
    assert prune.main(words(command, c=trained_folder, o=tmp_path / "out")) == 0
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    lines = [
        line.split("\t")[0] for line in (reviews_folder / "dev.tsv").read_text().splitlines()[1:]
    ]
    assert record["num_scoring_examples"] == 6 and 0 < record["num_eval_examples"] <= 15 - 6
    hashes = json.loads((tmp_path / "out" / "head_importance.json").read_text())["examples"]
    every = Split("dev", "dev.tsv", lines, None, None).example_hashes()
    assert record["num_eval_examples"] == sum(digest not in hashes for digest in every)

    # The same holds for an importance file that was made from the examples to evaluate on.
    command = (
        "--checkpoint {c} --dataset {d} --max_examples 4 --n_steps 2 --save none --output_dir {o}"
    )
    assert (
        attribute.main(words(command, c=trained_folder, d=reviews_folder, o=tmp_path / "explained"))
        == 0
    )
    file = tmp_path / "explained" / "head_importance.json"
    assert (
        prune.main(
            words(
                "--checkpoint {c} --importance {i} --output_dir {o}",
                c=trained_folder,
                i=file,
                o=tmp_path / "given",
            )
        )
        == 0
    )
    record = json.loads((tmp_path / "given" / "pruning.json").read_text())
    assert record["num_scoring_examples"] == 4 and record["num_eval_examples"] == sum(
        text not in lines[:4] for text in lines
    )


@pytest.fixture(scope="module")
def curves_folder(trained_folder, tmp_path_factory):
    """What `prune.py --curve` writes."""
    folder = tmp_path_factory.mktemp("curves")
    command = (
        "--checkpoint {c} --keep_per_layer 2 --num_scoring_examples 11 --n_steps 4 --curve"
        " --curve_importances all --curve_seeds 2"
    )
    assert prune.main([*words(command, c=trained_folder), "--output_dir", str(folder)]) == 0
    return folder


def dev_batch(reviews_folder, classifier):
    """Return the examples that accuracy is measured on, and their labels."""
    rows = [line.split("\t") for line in (reviews_folder / "dev.tsv").read_text().splitlines()[1:]]
    return classifier.tokenize([row[0] for row in rows]), np.asarray(
        [int(row[1]) for row in rows], np.int32
    )


def accuracy_of(classifier, batch, labels, mask):
    logits, _ = aa.forward(
        classifier.params, batch, classifier.config, head_mask=jnp.asarray(mask, jnp.float32)
    )
    return np.mean(np.asarray(logits).argmax(axis=-1) == labels)


def test_prune_curve_in_memory_is_that_of_the_script(curves_folder, trained_folder, reviews_folder):
    classifier = aa.load_classifier(trained_folder)
    of_script = json.loads((curves_folder / "pruning.json").read_text())["curves"]
    train, dev = (
        [line.split("\t") for line in (reviews_folder / name).read_text().splitlines()[1:]]
        for name in ("train.tsv", "dev.tsv")
    )
    scored = sorted(np.random.default_rng(0).permutation(len(train))[:11])
    sets = [[list(column) for column in zip(*rows, strict=True)] for rows in (train, dev)]
    texts, labels = ([column[row] for row in scored] for column in sets[0])
    for expected in (of_script[1], of_script[4]):
        curve = aa.prune_curve(classifier, texts, labels, *sets[1], measure=expected["measure"])
        assert curve == {name: expected[name] for name in curve}
    with pytest.raises(aa.InputError, match="measure 'luck' is unknown; choose one of attribution"):
        aa.prune_curve(classifier, texts, labels, *sets[1], measure="luck")
    with pytest.raises(aa.InputError, match="every example of eval_texts was scored on"):
        aa.prune_curve(classifier, texts, labels, texts, labels)
    with pytest.raises(aa.InputError, match="the labels of texts must be a list"):
        aa.prune_curve(classifier, texts, labels[1:], *sets[1])


def test_prune_draws_curves(curves_folder, trained_folder, reviews_folder):
    record = json.loads((curves_folder / "pruning.json").read_text())
    assert record["curve"] == record["curves"][0]["points"]
    assert [(curve["measure"], curve["seed"]) for curve in record["curves"]] == [
        *((measure, None) for measure in ("attribution", "taylor", "attention", "ablation")),
        ("random", 0),
        ("random", 1),
    ]
    for curve in record["curves"]:
        assert [point["fraction"] for point in curve["points"]] == [at / 10 for at in range(11)]
        assert [point["num_pruned"] for point in curve["points"]] == [
            0,
            0,
            1,
            2,
            3,
            4,
            4,
            5,
            6,
            7,
            8,
        ]
        assert curve["points"][0]["accuracy"] == record["accuracy_before"]
        assert (
            curve["keep_per_layer"]["per_layer"] == 2 and curve["keep_per_layer"]["num_pruned"] == 4
        )
    assert record["curves"][0]["keep_per_layer"]["accuracy"] == record["accuracy_after"]

    # Halfway, every curve has the accuracy of the model without the lower half of the stored
    # importance.
    classifier = aa.load_classifier(trained_folder)
    batch, labels = dev_batch(reviews_folder, classifier)
    for measure, suffix in (
        ("attribution", ""),
        *((name, f"_{name}") for name in ("taylor", "attention", "ablation", "random")),
    ):
        stored = json.loads((curves_folder / f"head_importance{suffix}.json").read_text())
        curve = next(
            curve for curve in record["curves"] if curve["measure"] == stored["measure"] == measure
        )
        mask = aa.prune_lowest_heads(stored["importance"], 0.5)
        assert curve["points"][5]["accuracy"] == pytest.approx(
            accuracy_of(classifier, batch, labels, mask)
        )

    with open(curves_folder / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    points = [
        {"measure": curve["measure"], "seed": curve["seed"], **point}
        for curve in record["curves"]
        for point in curve["points"]
    ]
    assert rows == [
        {name: "" if value is None else str(value) for name, value in point.items()}
        for point in points
    ]
    for stem, named in (
        (
            "curve",
            {"attribution", "taylor", "attention", "ablation", "random, mean and range of 2 seeds"},
        ),
        ("heads", {"head"}),
    ):
        assert (curves_folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        svg = ElementTree.parse(curves_folder / f"{stem}.svg")
        assert named <= {
            "".join(element.itertext()).strip()
            for element in svg.iter("{http://www.w3.org/2000/svg}text")
        }


def test_correlate(curves_folder, tmp_path, capsys):
    files = [
        curves_folder / f"head_importance{suffix}.json" for suffix in ("", "_taylor", "_random")
    ]
    assert correlate.main([str(file) for file in files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"[2] {files[1]}: taylor, 11 examples"
    first, second = (np.ravel(json.loads(file.read_text())["importance"]) for file in files[:2])
    pearson, spearman = (
        np.corrcoef(*pair)[0, 1]
        for pair in ((first, second), (first.argsort().argsort(), second.argsort().argsort()))
    )
    shared = len(set(first.argsort()[-2:]) & set(second.argsort()[-2:]))
    assert lines[4].split() == [
        "[1]",
        "and",
        "[2]",
        f"{pearson:+.3f}",
        f"{spearman:+.3f}",
        str(shared),
        "of",
        "2",
    ]
    assert len(lines) == 3 + 1 + 3, "every pair"

    small = tmp_path / "small.json"
    small.write_text(json.dumps(json.loads(files[0].read_text()) | {"importance": [[1.0, 2.0]]}))
    for given, message in (
        ([files[0]], "give two files or more"),
        (
            [files[0], tmp_path / "missing.json"],
            "missing.json: no such file; prune.py and attribute.py write",
        ),
        (
            [files[0], curves_folder / "pruning.json"],
            f"{curves_folder / 'pruning.json'} is not a head_importance.json",
        ),
        ([files[0], small], "importances of [2, 4] and [1, 2] heads cannot be compared"),
        ([], "the following arguments are required"),
    ):
        assert correlate.main([str(file) for file in given]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ") and message in line


def test_prune_down_to_an_accuracy(curves_folder, trained_folder, reviews_folder, tmp_path, capsys):
    file = curves_folder / "head_importance_ablation.json"
    classifier = aa.load_classifier(trained_folder)
    batch, labels = dev_batch(reviews_folder, classifier)
    importance = np.asarray(json.loads(file.read_text())["importance"])
    accuracies = []
    for count in range(9):
        mask = np.ones(8)
        mask[np.argsort(importance.ravel(), kind="stable")[:count]] = 0
        accuracies.append(accuracy_of(classifier, batch, labels, mask.reshape(2, 4)))
    floor = (accuracies[0] + min(accuracies)) / 2
    expected = next(count for count, accuracy in enumerate(accuracies) if accuracy < floor) - 1
    command = "--checkpoint {c} --importance {i} --min_accuracy {f} --output_dir {o}"
    assert prune.main(words(command, c=trained_folder, i=file, f=floor, o=tmp_path / "out")) == 0
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert sum(map(len, record["pruned_heads"])) == expected and record[
        "accuracy_after"
    ] == pytest.approx(accuracies[expected])
    assert record["min_accuracy"] == floor and "for an unbiased accuracy" in capsys.readouterr().out


def test_two_rounds_are_pruning_twice(trained_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    left, score_heads = [], experiment.score_heads

    def counting(measure, classifier, encoded, mesh, mask, *others, **named):
        left.append(int(mask.sum()))
        return score_heads(measure, classifier, encoded, mesh, mask, *others, **named)

    monkeypatch.setattr(experiment, "score_heads", counting)
    command = (
        "--checkpoint {c} --importance taylor --num_scoring_examples 11 --prune_fraction {f}"
        " --output_dir {o}"
    )
    for name, checkpoint, fraction, more in (
        ("rounds", trained_folder, 0.75, "--iterations 2"),
        ("first", trained_folder, 0.375, "--save_pruned {tmp}/smaller"),
        ("second", tmp_path / "smaller", 0.75, ""),
    ):
        assert (
            prune.main(
                words(
                    f"{command} {more}", c=checkpoint, f=fraction, o=tmp_path / name, tmp=tmp_path
                )
            )
            == 0
        )
    assert left == [8, 5, 8, 5]
    rounds, twice = (
        json.loads((tmp_path / name / "pruning.json").read_text()) for name in ("rounds", "second")
    )
    assert sum(map(len, rounds["pruned_heads"])) == 6
    for name in (
        "pruned_heads",
        "accuracy_after",
        "num_eval_examples",
        "num_scoring_examples",
        "eval_source",
        "scoring_source",
    ):
        assert rounds[name] == twice[name], name


def test_smaller_model_is_saved_and_used(
    trained_folder, reviews_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    smaller = tmp_path / "smaller"
    command = "--checkpoint {c} --prune_heads 0:1,2;1:0,1,2,3 --save_pruned {s} --output_dir {o}"
    assert prune.main(words(command, c=trained_folder, s=smaller, o=tmp_path / "out")) == 0
    assert f"smaller model: {smaller}" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    size = record["size"]
    # 6 heads of 4 numbers, in a model 16 wide.
    assert size["before"]["parameters"] - size["after"]["parameters"] == 6 * (4 * 4 * 16 + 3 * 4)
    assert size["after"]["file_bytes"] == (smaller / "model.safetensors").stat().st_size
    assert size["after"]["flops"] < size["before"]["flops"] and size["num_tokens"] == 16
    assert all(set(size[name]["latency_ms"]) == {"1", "32"} for name in ("before", "after"))
    run = json.loads((smaller / "run.json").read_text())
    classifier = aa.load_classifier(smaller)
    assert (
        classifier.config.kept_heads == ((0, 3), ())
        and run["model_fingerprint"] == classifier.fingerprint()
        and run["finished"]
    )

    # At full size, with zeros, it is for any reader of the format.
    command += " --full_size --overwrite"
    assert prune.main(words(command, c=trained_folder, s=smaller, o=tmp_path / "out")) == 0
    assert f"full-size model with zeros: {smaller}" in capsys.readouterr().out
    filled = aa.load_classifier(smaller)
    assert filled.config == aa.load_classifier(trained_folder).config
    assert (
        json.loads((tmp_path / "out" / "pruning.json").read_text())["accuracy_after"]
        == (record["accuracy_after"])
    )
    command = command.replace(" --full_size", "")
    assert prune.main(words(command, c=trained_folder, s=smaller, o=tmp_path / "out")) == 0

    # It says what it was trained on, and the other scripts take it.
    assert (
        prune.main(words("--checkpoint {s} --importance random --prune_fraction 0.75", s=smaller))
        == 0
    )
    again = json.loads((smaller / "pruning" / "pruning.json").read_text())
    assert again["accuracy_before"] == again["accuracy_after"] == record["accuracy_after"]
    assert again["pruned_heads"] == [[1, 2], [0, 1, 2, 3]] and again["eval_source"] == str(
        reviews_folder / "dev.tsv"
    )
    assert (
        attribute.main(
            words(
                "--checkpoint {s} --n_steps 4 --text good --output_dir {o}",
                s=smaller,
                o=tmp_path / "explained",
            )
        )
        == 0
    )
    (stored,) = aa.load_attributions(tmp_path / "explained")
    assert (
        stored.attributions.shape[:2] == (2, 4)
        and not stored.attributions[1].any()
        and stored.attributions[0, 3].any()
    )
    command = "--model {s} --dataset {d} --num_train_epochs 1 --learning_rate 1e-3 --output_dir {o}"
    assert train.main(words(command, s=smaller, d=reviews_folder, o=tmp_path / "tuned")) == 0
    tuned = aa.load_classifier(tmp_path / "tuned")
    assert tuned.config == classifier.config and tuned.fingerprint() != classifier.fingerprint()


def test_prune_as_the_papers_code(trained_folder, reviews_folder, tmp_path, capsys):
    command = "--checkpoint {c} --protocol reference --num_scoring_examples 6 --output_dir {o}"
    assert prune.main(words(command, c=trained_folder, o=tmp_path / "out")) == 0
    assert "(--protocol reference)" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert (record["protocol"], record["num_scoring_examples"], record["num_eval_examples"]) == (
        "reference",
        6,
        15,
    )
    # Heads by the paper's 20 left steps, for the gold class of the first examples that accuracy is
    # measured on.
    classifier = aa.load_classifier(trained_folder)
    batch, labels = dev_batch(reviews_folder, classifier)
    batch, labels = {name: values[:6] for name, values in batch.items()}, labels[:6]
    found = aa.attribute_attention(
        classifier.params, batch, classifier.config, labels, 20, "riemann_left"
    )
    expected = np.asarray(aa.head_importance(found.attributions, batch["attention_mask"]))
    importance = json.loads((tmp_path / "out" / "head_importance.json").read_text())["importance"]
    np.testing.assert_allclose(importance, expected, atol=1e-5 * np.abs(expected).max())


BAD_TRAIN = [
    ("--push_to_hub a/b/c", "--push_to_hub: 'a/b/c' is no id of the Hub"),
    ("--problem_type multi_label_classification", "is no list, which a model whose labels hold"),
    ("--learning_rate -1", "--learning_rate must be above 0"),
    ("--learning_rate nan", "--learning_rate must be above 0"),
    ("--weight_decay inf", "--weight_decay must be from 0"),
    ("--seed -1", "--seed must be from 0"),
    ("--output_dir {trained} --model {trained} --overwrite", "is the folder of --model"),
    (
        "--output_dir {tiny} --model {trained} --overwrite",
        "which no run of train.py wrote: choose another folder",
    ),
    ("--learning_rate -1e-5", "a value that begins with - is written --option=value"),
    ("--text_column=", "--text_column is empty"),
    ("--dataset ~nosuchuser/x", "no such file or folder"),
    ("--text_column label --label_column label", "must differ"),
    ("--learning_rate abc", "--learning-rate: invalid float value: 'abc'"),
    ("--num_train_epochs 0", "--num_train_epochs must be at least 1"),
    ("--warmup_ratio 2", "--warmup_ratio must be from 0 to 1"),
    ("--dataset {tmp}/missing", "missing: no such file or folder"),
    ("--dataset sst2", "use reviews, which is shipped"),
    ("--model google-bert/bert-base-uncased", "or minilm-l6"),
    ("--model {tmp}/missing", "missing: no such folder"),
    ("--max_seq_length 2", "--max_seq_length must be more than 2 and at most 32"),
    ("--text_column body", "no column 'body'"),
    ("--dtype float8", "--dtype: invalid choice: 'float8'"),
    ("--unknown 1", "unrecognized arguments: --unknown 1"),
    ("--resume --overwrite", "--overwrite and --resume: choose one"),
    (
        "--output_dir {trained}",
        "already holds results of train.py: --resume goes on, --overwrite starts anew",
    ),
]
BAD_ATTRIBUTE = [
    ("--text a --figures png,gif", "--figures: 'gif' is none of png, svg, pdf"),
    (
        "--text a --export xlsx",
        "--export: 'xlsx' is none of parquet, csv, npz, safetensors, json, dot",
    ),
    (
        "--text a --figures png --save summary",
        "--figures needs the arrays of every text: give --save full",
    ),
    (
        "--text a --export csv --save none",
        "--export needs the arrays of every text: give --save full",
    ),
    ("--text a --export csv --export_top_k 0", "--export_top_k must be at least 1, not 0"),
    (
        "--text a --tree_threshold 1.5",
        "--tree_threshold, --tree_penalty: threshold must be from 0 to 1, not 1.5",
    ),
    ("--text a --report_examples -1", "--report_examples must not be negative, but is -1"),
    ("--text a --report_megabytes 0", "megabytes of a report must be more than 0"),
    (
        "--text a --layers 1 --export csv,json,dot",
        "--export json,dot: trees need the attributions of all layers: leave --layers out",
    ),
    ("--text a --token_n_steps many", "--token_n_steps must be an integer or auto, not 'many'"),
    (
        "--text a --token_n_steps auto --dtype bfloat16",
        "--token_n_steps auto needs --dtype float32",
    ),
    ("", "give --text, --text_file or --dataset"),
    ("--text a --dataset {data}", "give only one of them"),
    ("--text a --text_pair b --text_pair c", "2 --text_pair for 1 --text"),
    ("--text_file {tmp}/missing", "no such file"),
    ("--text_file {empty}", "is empty"),
    ("--dataset {data} --split test", "has no test file"),
    ("--text a --n_steps 100000000", "--n_steps: n_steps must be at most 10000"),
    ("--text a --checkpoint runs/missing", "run train.py first"),
    ("--text \u200b", "no token is left of"),
    ("--text a\udcffb", "--text number 1 is not UTF-8"),
    ("--text a --output_dir {tmp}/a\udcffb", "is not UTF-8: write it in UTF-8"),
    ("--checkpoint a\udcffb", "--checkpoint 'a\\udcffb' is not UTF-8: write it in UTF-8"),
    ("--text a --n_steps 0", "--n_steps: n_steps must be an integer of at least 1"),
    ("--text a --n_steps many", "--n_steps must be an integer or auto, not 'many'"),
    ("--text a --n_steps auto --tolerance 0", "tolerance must be a number between 0 and 1"),
    ("--text a --n_steps auto --max_steps 4", "max_steps must be an integer of at least 5"),
    ("--text a --n_steps auto --path joint", "--n_steps auto goes with --path layer"),
    ("--text a --method simpson", "--method: invalid choice: 'simpson'"),
    (
        "--text a --target angry",
        "--target 'angry' is not predicted, gold, all, or one of the classes 0 (negative), 1 (pos",
    ),
    ("--text a --target gold", "texts given by hand have no gold class"),
    ("--dataset {unlabelled} --target gold", "--target gold: "),
    ("--text a --layers 2", "--layers '2': give different layers from 0 to 1"),
    ("--text a --checkpoint {tmp}/missing", "missing: no such folder"),
    ("--text a --batch_size 0", "--batch_size must be at least 1"),
    ("--text a --output_dir {trained}", "holds results of train.py: choose another folder"),
]
BAD_PRUNE = [
    ("--keep_per_layer 5", "--keep_per_layer: heads to keep per layer must be 0 to 4"),
    ("--prune_fraction nan", "--prune_fraction: the fraction"),
    (
        "--prune_fraction 1.5",
        "--prune_fraction: the fraction of heads to prune must be from 0 to 1",
    ),
    ("--prune_heads 0:7", "--prune_heads: head 7 of layer 0 does not exist"),
    ("--prune_heads 4:0", "--prune_heads: layer 4 does not exist"),
    ("--prune_heads x", "--prune_heads: 'x' is not of the form"),
    ("--keep_per_layer 1 --prune_fraction 0.5", "give only one of them"),
    (
        "--importance {tmp}/missing.json",
        (
            "is none of attribution, taylor, attention, ablation, random, nor an existing"
            " head_importance.json"
        ),
    ),
    ("--importance {other}", "was computed for another model"),
    ("--importance {empty}", "is not a head_importance.json"),
    ("--num_scoring_examples 0", "--num_scoring_examples must be at least 1"),
    ("--dataset {data} --scoring_split validation --num_scoring_examples 15", "every example of"),
    ("--checkpoint {tiny}", "name a data set with --dataset"),
    (
        "--prune_fraction 0.5 --min_accuracy 0.5",
        "--prune_fraction and --min_accuracy: give only one of them",
    ),
    (
        "--prune_fraction -0.1",
        "--prune_fraction: the fraction of heads to prune must be from 0 to 1, not -0.1",
    ),
    ("--min_accuracy 2", "--min_accuracy must be from 0 to 1, not 2.0"),
    (
        "--importance random --dataset {doubtful} --min_accuracy 0.6",
        "--min_accuracy 0.6 is more than the model has as it is, 0.5000: give less",
    ),
    (
        "--curve --curve_importances taylor,tailor",
        "--curve_importances: 'tailor' is unknown; give some of attribution, taylor, attention",
    ),
    ("--curve --curve_seeds 0", "--curve_seeds must be at least 1"),
    (
        "--importance random --prune_heads 0:1",
        "--prune_heads names the heads: leave --importance out",
    ),
    ("--curve --prune_heads 0:1", "--curve ranks the heads: --prune_heads does not go with it"),
    ("--iterations 2", "--iterations goes with --prune_fraction, --min_accuracy or --curve"),
    (
        "--iterations 2 --prune_fraction 0.5 --importance {other}",
        "--importance must be a measure, not a file",
    ),
    ("--protocol reference --n_steps 5", "--protocol reference integrates with 20 steps"),
    (
        "--protocol reference --scoring_split validation",
        "scores on --eval_split: leave --scoring_split out",
    ),
    ("--full_size", "--full_size has no effect without --save_pruned: leave it out"),
    ("--revision v1", "revision 'v1': "),
    ("--save_pruned {tmp}/out", "out is the folder of --output_dir: choose another"),
    ("--save_pruned {trained}/", "is the folder of --checkpoint: choose another"),
    (
        "--save_pruned {tiny} --overwrite",
        "which no run of prune.py --save_pruned wrote: choose another folder",
    ),
]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (script, *case)
        for script, cases in ((train, BAD_TRAIN), (attribute, BAD_ATTRIBUTE), (prune, BAD_PRUNE))
        for case in cases
    ],
)
def test_bad_use_is_one_line_and_writes_nothing(
    script, arguments, message, trained_folder, tiny_folder, reviews_folder, tmp_path, capsys
):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "empty").touch()
    other = {
        "measure": "attribution",
        "num_examples": 1,
        "target": "gold",
        "model": "other",
        "importance": np.ones((2, 4)).tolist(),
    }
    (inputs / "unlabelled.tsv").write_text("sentence\ngood\n")
    (inputs / "other.json").write_text(json.dumps(other))
    (inputs / "doubtful.tsv").write_text("sentence\tlabel\ngood film\t0\ngood film\t1\n")
    given = words(
        arguments, tmp=tmp_path, data=reviews_folder, tiny=tiny_folder, trained=trained_folder,
        empty=inputs / "empty", other=inputs / "other.json",
        unlabelled=inputs / "unlabelled.tsv", doubtful=inputs / "doubtful.tsv",
    )  # fmt: skip
    output = tmp_path / "out"
    defaults = {"--output_dir": output}
    defaults |= (
        {"--model": tiny_folder, "--dataset": reviews_folder}
        if script is train
        else {"--checkpoint": trained_folder}
    )
    for name, value in defaults.items():
        if name not in given:
            given += [name, str(value)]
    before = {file: file.stat().st_mtime_ns for file in trained_folder.rglob("*")}
    assert script.main(given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert list(tmp_path.iterdir()) == [inputs]
    assert {file: file.stat().st_mtime_ns for file in trained_folder.rglob("*")} == before


def test_names_in_another_encoding_are_refused(monkeypatch, capsys):
    # As under LC_ALL=C PYTHONUTF8=0
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert train.main(["--output_dir", os.fsencode("😀").decode("ascii", "surrogateescape")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --output_dir ") and line.endswith(
        "Python's encoding here is ascii: set PYTHONUTF8=1"
    )


@pytest.mark.parametrize("script", [attribute, prune])
def test_the_folder_of_a_model_is_no_output_folder(script, tiny_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    what = "--text good" if script is attribute else "--dataset reviews"
    assert (
        script.main(
            words(f"--checkpoint {{m}} --output_dir {{m}}/../model {what} --overwrite", m=folder)
        )
        == 2
    )
    assert (
        "model holds a model (config.json, model.safetensors): choose another folder"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_rule_that_would_have_no_effect_is_named(trained_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {m} --text good --output_dir {o} --n_steps auto --method riemann_left",
        m=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main(command) == 2
    assert (
        "error: --method: method 'riemann_left' has no effect with n_steps 'auto'"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert not (tmp_path / "out").exists()


def test_empty_text_is_named(trained_folder, tmp_path, capsys):
    given = [
        "--checkpoint",
        str(trained_folder),
        "--output_dir",
        str(tmp_path / "out"),
        "--text",
        "good",
        "--text",
        " ",
    ]
    assert attribute.main(given) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --text number 2 is empty"


def test_labels_of_the_evaluation_split_must_be_known(tiny_folder, tmp_path, capsys):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\ngood\tyes\nbad\tno\n")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ngood\tyes\nbad\tmaybe\n")
    assert (
        train.main(
            words(
                "--model {m} --dataset {d} --output_dir {o}",
                m=tiny_folder,
                d=tmp_path,
                o=tmp_path / "out",
            )
        )
        == 2
    )
    last = capsys.readouterr().err.splitlines()[-1]
    assert "dev.tsv, row 3: label 'maybe' is not one of the model's classes (no, yes)" in last
    assert not (tmp_path / "out").exists()


def test_long_text_is_cut_with_one_warning(trained_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {c} --n_steps 1 --save none --output_dir {o} --text",
        c=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main([*command, "film " * 5000]) == 0
    noise = [
        line
        for line in capsys.readouterr().err.replace("\r", "\n").splitlines()
        if line and "attributing" not in line and "rough" not in line  # one step is few
    ]
    assert noise == ["warning: --text: 1 of 1 texts longer than 32 tokens: 4970 tokens were cut"]
    (row,) = read_jsonl(tmp_path / "out" / "examples.jsonl")
    assert row["num_cut_tokens"] == 4970
    attribute.print_explanation(aa.load_attributions(tmp_path / "out")[0])
    assert "  longer than the model reads: 4970 tokens were cut off\n" in capsys.readouterr().out


def test_model_with_one_output(regression_folder, reviews_folder, tmp_path, capsys):
    command = words(
        "--checkpoint {c} --text good --n_steps 2 --output_dir {o}",
        c=regression_folder,
        o=tmp_path / "out",
    )
    assert attribute.main([*command, "--objective", "prob"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --objective: ") and error.endswith("use 'logit'")
    assert attribute.main([*command, "--figures", "png"]) == 0
    (row,) = read_jsonl(tmp_path / "out" / "examples.jsonl")
    printed = capsys.readouterr().out
    assert (
        f"\n  The output is {row['logits']['stars']:.3f}. " in printed
        and "p = " not in printed
        and row["probabilities"] == {}
    )
    data = f"--dataset {reviews_folder} --output_dir {tmp_path / 'no'}"
    assert prune.main(words(f"--checkpoint {{c}} {data}", c=regression_folder)) == 2
    said = "has one output (regression): there is no accuracy without classes"
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


def test_checkpoint_of_another_task(tiny_folder, reviews_folder, tmp_path, capsys):
    folder = tmp_path / "tokens"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | {
        "architectures": ["BertForTokenClassification"]
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert attribute.main(words("--checkpoint {c} --text good", c=folder)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error == f"error: {folder}: architectures is BertForTokenClassification, which is no text"
        " classifier: fine-tune it with train.py first"
    )
    assert not (folder / "attribution").exists()
    command = words(
        "--model {m} --dataset {d} --num_train_epochs 1 --output_dir {o}",
        m=folder,
        d=reviews_folder,
        o=tmp_path / "run",
    )
    assert train.main(command) == 0
    assert "new, to be trained: classifier\n" in capsys.readouterr().err
    assert aa.load_classifier(tmp_path / "run").id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_labels_of_other_classes_do_not_stop_an_explanation(trained_folder, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("sentence\tlabel\ngood film\tangry\n")
    command = "--checkpoint {c} --n_steps 1 --save none --dataset {d} --output_dir {o}"
    assert (
        attribute.main(words(command, c=trained_folder, d=tmp_path / "a.tsv", o=tmp_path / "out"))
        == 0
    )
    assert "warning: labels are left out: " in capsys.readouterr().err
    assert read_jsonl(tmp_path / "out" / "examples.jsonl")[0]["label"] is None


def test_prune_uses_the_columns_of_the_training(tiny_folder, tmp_path, monkeypatch):
    for name in ("train", "dev"):
        rows = [
            "text\tlabel\tbody\tstars",
            *(f"x\t0\t{name} good film {at}\t{at % 2}" for at in range(6)),
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    command = (
        "--model {m} --dataset {d} --text_column body --label_column stars --num_train_epochs 1"
        " --output_dir {o}"
    )
    assert train.main(words(command, m=tiny_folder, d=tmp_path, o=tmp_path / "run")) == 0
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    command = "--checkpoint {o} --importance random --save_pruned {s}"
    assert prune.main(words(command, o=tmp_path / "run", s=tmp_path / "smaller")) == 0
    record = json.loads((tmp_path / "run" / "pruning" / "pruning.json").read_text())
    assert (
        record["accuracy_before"]
        == json.loads((tmp_path / "run" / "run.json").read_text())["results"]["eval_accuracy"]
    )
    # So does the smaller model, and one whose run.json an earlier version wrote.
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    del run["options"]["skip_bad_rows"], run["options"]["column_names"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    command = "--checkpoint {o} --importance random --save_pruned {s} --overwrite"
    assert prune.main(words(command, o=tmp_path / "run", s=tmp_path / "smaller")) == 0
    assert prune.main(words("--checkpoint {s} --importance random", s=tmp_path / "smaller")) == 0
    again = json.loads((tmp_path / "smaller" / "pruning" / "pruning.json").read_text())
    assert again["loss_before"] == pytest.approx(record["loss_after"], abs=1e-6)


def test_sentence_pairs_and_three_classes(tiny_folder, tmp_path):
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = [
            "premise\thypothesis\tlabel",
            *(f"good film {at}\tbad\t{('no', 'maybe', 'yes')[at % 3]}" for at in range(6)),
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    command = "--model {m} --dataset {d} --num_train_epochs 1 --output_dir {o}"
    assert train.main(words(command, m=tiny_folder, d=tmp_path, o=tmp_path / "run")) == 0
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert {"eval_accuracy", "eval_loss", "eval_mismatched_accuracy"} <= set(results)
    assert aa.load_classifier(tmp_path / "run").id2label == {0: "maybe", 1: "no", 2: "yes"}
    command = "--checkpoint {o} --dataset {d} --target maybe --n_steps 1 --save none"
    assert attribute.main(words(command, o=tmp_path / "run", d=tmp_path)) == 0
    row = read_jsonl(tmp_path / "run" / "attribution" / "examples.jsonl")[1]
    assert (
        set(row["probabilities"]) == {"maybe", "no", "yes"}
        and row["label"] == "maybe"
        and row["text_pair"] == "bad"
    )


def test_overwrite_starts_anew_and_leaves_other_files(trained_folder, tmp_path, capsys):
    output = tmp_path / "out"
    command = [
        *words("--checkpoint {c} --n_steps 2 --output_dir {o}", c=trained_folder, o=output),
        "--text",
    ]
    assert attribute.main([*command, "good film"]) == 0
    (output / "notes.txt").write_text("mine")
    assert attribute.main([*command, "bad film"]) == 2
    assert (
        "already holds results of attribute.py: --resume goes on, --overwrite starts anew"
        in capsys.readouterr().err
    )
    assert attribute.main([*command, "bad film", "--overwrite"]) == 0
    assert [one.text for one in aa.load_attributions(output)] == ["bad film"]
    assert (output / "notes.txt").read_text() == "mine"


def test_full_disk_is_one_line(trained_folder, tmp_path, capsys, monkeypatch):
    def no_space(self, explained):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "shard"))

    monkeypatch.setattr(parts.ExplanationWriter, "add", no_space)
    command = words(
        "--checkpoint {c} --n_steps 2 --text good --output_dir {o}",
        c=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("shard: No space left on device")


def test_full_disk_in_the_words_of_a_library_is_one_line(capsys):
    def no_space():
        raise Exception("No space left on device (os error 28)")

    assert cli.run(no_space) == 2
    assert capsys.readouterr().err == "error: output: No space left on device (os error 28)\n"


def test_what_fails_while_drawing_leaves_the_explanations(
    trained_folder, tmp_path, capsys, monkeypatch
):
    def no_space(*arguments, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "report.html"))

    monkeypatch.setattr(attribute, "write_report", no_space)
    command = words(
        "--checkpoint {c} --n_steps 2 --text good --output_dir {o}",
        c=trained_folder,
        o=tmp_path / "out",
    )
    assert attribute.main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("report.html: No space left on device")
    stored = aa.load_attributions(tmp_path / "out")
    assert stored.run["finished"] and stored[0].attributions.any()


def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    tiny_folder, reviews_folder, tmp_path, capsys, monkeypatch
):

    def interrupt(self, on_step):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", interrupt)
    command = words(
        "--model {m} --dataset {d} --output_dir {o}",
        m=tiny_folder,
        d=reviews_folder,
        o=tmp_path / "out",
    )
    assert train.main(command) == 130
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("error: interrupted: the same command with --resume goes on")
    )
    assert not json.loads((tmp_path / "out" / "run.json").read_text())["finished"]


@pytest.mark.parametrize("script", ["train.py", "attribute.py", "prune.py"])
def test_scripts_at_the_root_explain_themselves(script):
    found = subprocess.run(
        [sys.executable, ROOT / script, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert f"    python {script} --" in found.stdout, "a command that can be pasted"
    assert "--output_dir" in found.stdout and "--output-dir" in found.stdout


def test_compiled_programs_are_kept_where_a_folder_can_be_made(tmp_path):
    code = (
        "import jax; from attattr_jax.commands import cli; cli.run(lambda:"
        " print(jax.config.jax_compilation_cache_dir))"
    )
    (tmp_path / "file").touch()
    for cache, expected in (
        (tmp_path / "cache", str(tmp_path / "cache" / "attattr-jax")),
        (tmp_path / "file", "None"),
    ):
        environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
        for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_import_touches_no_device():
    code = "import attattr_jax; from jax._src import xla_bridge; assert not xla_bridge._backends"
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True
    )


def test_every_public_name_is_documented():
    for name in aa.__all__:
        doc = getattr(aa, name).__doc__
        assert doc and not doc.startswith(f"{name}("), name
