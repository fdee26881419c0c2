"""The numbers of README.md and docs/*.md against the result files: benchmarks/check_figures.py."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULT = {
    "accuracy": 0.8991,
    "delta": 3.43e-6,
    "parameters": 22713986,
    "tie": 7.25,
    "seconds": [35.02, 3.94],
    "time of scoring": {"ablation": 19.1},
    "by_seed": {"0": 0.75, "1": 0.25},
    "points": [
        {"fraction": 0.0, "accuracy": 0.9, "spread": 0.1},
        {"fraction": 0.5, "accuracy": 0.8, "spread": 0.2},
    ],
}
OUTPUT = "step 1\nstep 2\nstep 3\n601 passed in 618.16s\nreal\t8m50.394s\n"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location(
        "check_figures", ROOT / "benchmarks" / "check_figures.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def problems(figures, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RESULT))
    (tmp_path / "run.txt").write_text(OUTPUT)
    return lambda page: figures.check("page.md", page, tmp_path)[0]


def test_the_pages_of_this_project_agree_with_the_result_files(figures, capsys):
    assert figures.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("printed", "expression"),
    [
        ("0.899", "accuracy"),
        ("3.4e-06", "delta"),
        ("22,713,986", "parameters"),
        ("22.7 M", "parameters / 1e6"),
        ("89.9 %", "accuracy * 100"),
        ("7.2", "tie"),
        ("7.3", "tie"),
        ("9 ×", "seconds[0] / seconds[1]"),
        ("−31.08", "seconds[1] - seconds[0]"),
        ("19.1", '"time of scoring".ablation'),
        ("0.50", "mean(by_seed)"),
        ("0.80", "points[fraction == 0.5].accuracy"),
        ("9.0", "max(points.accuracy / points.spread)"),
        ("0.85", "mean(points[0, 1].accuracy)"),
    ],
)
def test_right_and_wrong_numbers(problems, printed, expression):
    assert problems(f"It is {printed}<!-- a.json: {expression} --> here.") == []
    number, *unit = printed.split()
    wrong = " ".join([f"{number[:-1]}{(int(number[-1]) + 5) % 10}", *unit])
    (problem,) = problems(f"First line.\nIt is {wrong}<!-- a.json: {expression} --> here.")
    assert problem.startswith(f"page.md:2: {wrong.split()[0]} on the page, ")
    assert problem.endswith(f" in a.json: {expression}")


def test_the_last_numbers_before_a_comment_are_meant(problems):
    page = (
        "With 20 steps {}, tolerance 1e-3, {} s<!-- a.json: accuracy; _; seconds[0] -->, and 5"
        " more."
    )
    assert problems(page.format("0.899", "35.0")) == []
    assert len(problems(page.format("35.0", "0.899"))) == 2


def test_numbers_from_the_text_of_a_run(problems):
    assert problems('It took 8 min 50 s<!-- run.txt: after("real\\t") -->.') == []
    assert problems('It took 10 min 18 s<!-- run.txt: after("passed in ") -->.') == []
    assert "618.16" in problems('It took 10 min 19 s<!-- run.txt: after("passed in ") -->.')[0]
    assert "there is no 'failed in '" in problems('10 s<!-- run.txt: after("failed in ") -->')[0]


TABLE = """<!-- a.json points[row]: fraction * 100; accuracy -->

| removed | accuracy |
|---|---|
| 0 % | 0.900 |
| 50 % | {} |
| mean | {}

| another table | |
|---|---|
| label of 1.5 s | text |
"""


def test_a_comment_above_a_table_is_for_each_of_its_rows(problems):
    mean = "0.850<!-- a.json: mean(points.accuracy) --> |"
    assert problems(TABLE.format("0.800", mean)) == []
    (problem,) = problems(TABLE.format("0.810", mean))
    assert problem == "page.md:6: 0.810 on the page, 0.8 in a.json: accuracy"
    (problem,) = problems(TABLE.format("0.800", "0.850 |"))
    assert problem.startswith("page.md:7: ")
    assert problems("<!-- a.json: points[row].accuracy -->\n\nNo table.")[0].startswith(
        "page.md:1: no table"
    )


@pytest.mark.parametrize(
    ("page", "number"),
    [
        ("Accuracy is 0.899<!-- a.json: accuracy -->. A step takes 13 ms.", "13"),
        (
            "Accuracy is 0.899<!-- a.json: accuracy -->.\n\nIt has 22,713,986 parameters.",
            "22,713,986",
        ),
        ("- Deltas are 3e-6, accuracy is 0.899<!-- a.json: accuracy -->.", "3e-6"),
        ("| rule | evaluations |\n|---|---|\n| Gauss-Legendre 20 | 20 |", "20"),
    ],
)
def test_a_number_that_looks_measured_needs_a_comment(problems, page, number):
    (problem,) = problems(page)
    assert f"{number} looks measured" in problem
    if "|" not in page:
        assert (
            problems(
                page.replace(number, f"{number}<!-- not measured -->" if page[0] != "-" else "few")
            )
            == []
        )


@pytest.mark.parametrize(
    "page",
    [
        "A page without comments: 2.5 s, version 0.10.2, 128 MiB.",
        (
            "Accuracy is 0.899<!-- a.json: accuracy -->, with `--learning_rate 3e-5`,"
            " [here](docs/1.5.md), MiniLM-L6, SST-2."
        ),
        "Accuracy is 0.899<!-- a.json: accuracy -->.\n\n## 1.5 times\n\n```\ntook 2.5 s\n```\n",
    ],
)
def test_what_needs_no_comment(problems, page):
    assert problems(page) == []


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("a.json: precision", "there is no 'precision'"),
        ("a.json: points[2].accuracy", "IndexError"),
        ("a.json: points[fraction == 1].accuracy", "0 items have fraction == 1"),
        ("a.json: points", "is not a number"),
        ("b.json: accuracy", "there is no such result file"),
        ("a.jsn: accuracy", "not a comment on figures"),
        ("a.json: accuracy; accuracy", "2 expressions, but 1 numbers"),
        ("a.json: 0.899", "reads nothing from the file"),
        ("a.json: accuracy *", "not an expression"),
        ('a.json: __import__("os")', "is not allowed"),
        ("a.json: [accuracy for accuracy in points]", "is not allowed"),
    ],
)
def test_comments_that_name_nothing(problems, comment, message):
    (problem,) = problems(f"Accuracy is 0.899<!-- {comment} -->.")
    assert problem.startswith("page.md:1: ") and message in problem


def test_blocks_of_output_are_in_their_file(problems):
    page = "<!-- run.txt: verbatim -->\n\n```output\nstep 1\n…\n{}\n```\n"
    assert problems(page.format("step 3")) == []
    assert problems(page.format("step 4")) == [
        "page.md:6: run.txt does not have this output: step 4"
    ]
    assert "no comment above" in problems("```output\nstep 1\n```\n")[0]
