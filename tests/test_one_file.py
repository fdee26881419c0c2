"""One CSV file is enough: trained on, explained and pruned, with columns of unusual names."""

import json

import pytest
from conftest import read_jsonl

from attattr_jax.commands import attribute, prune, train
from attattr_jax.data.splits import load_split
from attattr_jax.pruning import costs

pytestmark = pytest.mark.usefixtures("standard_promotion")
COLUMNS = "--text_column Words --label_column Mood"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Forty rows, the label of a class in the text; another column has a usual name."""
    rows = [
        f"id {number},the film is {('good', 'bad')[number % 2]} and so it goes {number},"
        f"{('fine', 'poor')[number % 2]}"
        for number in range(40)
    ]
    file = tmp_path_factory.mktemp("data") / "mine.csv"
    file.write_text("\n".join(["Text,Words,Mood", *rows]) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def model(file, tiny_folder, tmp_path_factory):
    import jax

    folder = tmp_path_factory.mktemp("runs") / "mine"
    command = f"--model {tiny_folder} --dataset {file} --output_dir {folder} --seed 3 {COLUMNS}"
    with jax.numpy_dtype_promotion("standard"):
        assert train.main([*command.split(), "--num_train_epochs=1", "--train_batch_size=8"]) == 0
    return folder


def test_what_is_held_out_is_what_is_evaluated_also_by_prune(
    file, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    run = json.loads((model / "run.json").read_text())
    assert run["hold_out_seed"] == 3
    smaller, out = tmp_path / "smaller", tmp_path / "pruning"
    command = f"--checkpoint {model} --importance random --output_dir {out} --save_pruned {smaller}"
    assert prune.main(command.split()) == 0
    assert "transformers 5 does not read" in capsys.readouterr().err
    record = json.loads((out / "pruning.json").read_text())
    assert record["num_eval_examples"] == 4 and record["eval_source"].endswith("(held out)")
    assert record["accuracy_before"] == run["results"]["eval_accuracy"]
    saved = json.loads((smaller / "run.json").read_text())
    assert saved["hold_out_seed"] == 3, (
        "so that the smaller model is not evaluated on what it knows"
    )
    command = f"--checkpoint {model} --dataset {file} --num_scoring_examples 30 --n_steps 2"
    assert prune.main(f"{command} --output_dir {tmp_path / 'again'}".split()) == 0
    scored = json.loads((tmp_path / "again" / "head_importance.json").read_text())["examples"]
    held_out = load_split(str(file), "validation", hold_out_seed=3)
    assert not set(scored) & set(held_out.example_hashes())


def test_attribute_remembers_the_columns(file, model, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("Text,Words\nid 1,the film is bad\n", encoding="utf-8")
    for dataset in (file, other):
        folder = tmp_path / f"out_{dataset.stem}"
        command = f"--checkpoint {model} --dataset {dataset} --output_dir {folder} --n_steps 1"
        command += " --max_examples 2 --skip_token_attributions --report_examples 0"
        assert attribute.main(command.split()) == 0
        rows = read_jsonl(folder / "examples.jsonl")
        assert rows[0]["text"].startswith("the film is")
        assert rows[0]["label"] == ("fine" if dataset is file else None)


@pytest.mark.parametrize("main", [attribute.main, prune.main])
def test_runs_that_exist_are_suggested(main, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--text=a"] if main is attribute.main else []
    assert main(arguments) == 2
    assert "name a model with --checkpoint, such as an output of" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(model)
    assert main(arguments) == 2
    assert "error: name a model with --checkpoint: there is runs/mine\n" in capsys.readouterr().err
