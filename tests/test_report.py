import base64
import builtins
import functools
import hashlib
import html
import json
import re
import sys
import types
import weakref
import zlib
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.explanations.explanation import Explanation, Explanations
from attattr_jax.explanations.from_result import explanations_of
from attattr_jax.explanations.rows import check_row
from attattr_jax.explanations.summary import DatasetSummary
from attattr_jax.views.report import write_report

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> &lt; {{ 7*7 }}"
    " \u05e9\u05dc\u05d5\u05dd \u202eevil \U0001f600 e\u0301 'good' \\ \u2028 ]]>"
)
TEXTS = ["the film is very good .", HOSTILE, "a dull story"]


@pytest.fixture(scope="module")
def explained(tiny):
    with pytest.warns(UserWarning, match="^1 of 3 texts longer than 32 tokens"):
        return aa.explain_texts(tiny, TEXTS, labels=["positive", "negative", "negative"], n_steps=3)


@pytest.fixture(scope="module")
def one_output(regression_folder):
    return aa.explain_texts(
        aa.load_classifier(regression_folder), ["good film"], objective="logit", n_steps=3
    )


class Page(HTMLParser):
    """Collects what a browser would find: the scripts that run, the data blocks, elements and
    attributes.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.blocks, self.scripts, self.texts = [], [], [], [], []
        self._into = self.texts
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self._into = self.blocks if ("type", "application/json") in attrs else self.scripts

    def handle_endtag(self, tag):
        self._into = self.texts

    def handle_data(self, data):
        self._into.append(data)

    @property
    def examples(self):
        return [json.loads(block) for block in self.blocks]


def read(file):
    return Page(file.read_text(encoding="utf-8"))


def matrices(example):
    """Unpack what the page's script would: attribution and attention codes, [K, T, T] each."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(example["data"])), np.uint8).reshape(
        2, -1
    )
    codes = (
        np.ascontiguousarray(planes.T)
        .view("<i2")
        .reshape(-1, len(example["tokens"]), len(example["tokens"]))
    )
    count = len(example["decimals"]["attribution"])
    return codes[:count], codes[count:]


def test_model_with_one_output_has_no_probability_in_the_page(one_output, tmp_path):
    output = one_output[0].logits["stars"]
    page = read(one_output.show(tmp_path / "report.html"))
    listed = " ".join("".join(page.texts).split())
    assert f"good film text 0 · output {output:.3f} " in listed
    assert page.examples[0]["output"] == output and page.examples[0]["probabilities"] == {}


def test_numbers_in_the_page_are_the_arrays_rounded(explained, tmp_path):
    written = write_report(explained, tmp_path / "new" / "report.html")
    assert (
        written.num_examples == 3
        and written.num_bytes == written.file.stat().st_size
        and not written.left_out
    )
    for example, one in zip(read(written.file).examples, explained, strict=True):
        attributions = one.attributions.astype(np.float64)
        flat = (-1, *attributions.shape[2:])
        expected = np.concatenate(
            [attributions.sum((0, 1))[None], attributions.sum(1), attributions.reshape(flat)]
        )
        codes, attention = matrices(example)
        for matrix, code, decimals in zip(
            expected, codes, example["decimals"]["attribution"], strict=True
        ):
            np.testing.assert_allclose(code * 10.0**-decimals, matrix, atol=0.501 * 10.0**-decimals)
        heads = np.abs(codes[3:]).max(axis=(1, 2))
        assert ((heads >= 100) & (heads <= 1000) | (heads == 0)).all() and heads.any(), (
            "three digits, not fewer"
        )
        probs = one.attention_probs
        expected = np.concatenate([probs.mean((0, 1))[None], probs.mean(1), probs.reshape(flat)])
        np.testing.assert_allclose(attention / 1000, expected, atol=0.501e-3)
        np.testing.assert_allclose(example["importance"], one.array("head_importance"), rtol=1e-5)
        by_word = [sum(one.token_attributions[at] for at in group) for group in one.words]
        assert example["words"]["token_attributions"] == pytest.approx(by_word)
        assert [node[0] for node in example["tree"]["nodes"]] == [
            node.token for node in one.tree().nodes
        ]


@pytest.mark.parametrize("size", [1e-36, 1e30])
def test_numbers_of_any_size_are_packed(explained, tmp_path, size):
    one = explained[0]
    arrays = {
        name: one.array(name) * np.float32(1 if name == "attention_probs" else size)
        for name in one.array_names
    }
    (example,) = read(
        write_report([Explanation(one.row, arrays)], tmp_path / "report.html").file
    ).examples
    codes, _ = matrices(example)
    total = codes[0] * 10.0 ** -example["decimals"]["attribution"][0]
    np.testing.assert_allclose(
        total, arrays["token_pairs"], atol=1e-3 * np.abs(arrays["token_pairs"]).max()
    )


def test_text_is_text_whatever_it_is(explained, tmp_path):
    source = write_report(explained, tmp_path / "report.html").file.read_text(encoding="utf-8")
    page = Page(source)
    assert page.examples[1]["text"] == HOSTILE and HOSTILE in page.texts
    assert page.tags.count("script") == 3 + 1 and "img" not in page.tags, (
        "the data of three texts, and the page's own script"
    )
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    outside = [
        value
        for name, value in page.attributes
        if name in ("src", "href", "action") or "://" in (value or "")
    ]
    assert not outside, "nothing is loaded from anywhere"


def test_the_policy_lets_only_the_pages_own_script_and_style_pass(explained, tmp_path):
    source = write_report(explained, tmp_path / "report.html").file.read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', source)[1])
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


class Copies(Explanations):
    """The same example so many times, each made when it is asked for; remembers how many there were
    at once.
    """

    def __init__(self, example, count, num_tokens=None):
        self.row, self.arrays = (
            dict(example.row),
            {name: example.array(name) for name in example.array_names},
        )
        if num_tokens is not None:  # random numbers, which do not pack well
            random, shape = np.random.default_rng(0), (2, 4, num_tokens, num_tokens)
            self.arrays |= {
                name: random.normal(size=shape).astype(np.float32)
                for name in ("attributions", "attention_probs")
            }
            self.arrays["token_pairs"] = self.arrays["attributions"].sum((0, 1))
            lists = (
                "tokens",
                "offsets",
                "word_ids",
                "token_type_ids",
                "special_tokens_mask",
                "token_attributions",
            )
            self.row |= {name: (self.row[name] * num_tokens)[:num_tokens] for name in lists}
        self.count, self.alive, self.most_alive = count, weakref.WeakSet(), 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        made = Explanation(
            self.row | {"index": index},
            {name: values.copy() for name, values in self.arrays.items()},
        )
        self.alive.add(made)
        self.most_alive = max(self.most_alive, len(self.alive))
        return made


def test_one_example_is_in_memory_at_a_time(explained, tmp_path):
    many = Copies(explained[0], 50)
    write_report(many, tmp_path / "report.html")
    assert many.most_alive <= 2, "the one before is freed when the next one has been made"


def test_what_does_not_fit_is_left_out_and_said(explained, tmp_path):
    # Random numbers of 60 tokens: about 100 kB for all heads, 30 kB for the layers, 14 kB for their
    # sum.
    many = Copies(explained[0], 6, num_tokens=60)
    whole = write_report(many, tmp_path / "whole.html")
    assert not whole.left_out and {example["detail"] for example in read(whole.file).examples} == {
        "heads"
    }
    some = write_report(many, tmp_path / "some.html", max_examples=5, max_megabytes=0.25)
    examples = read(some.file).examples
    details = [example["detail"] for example in examples]
    assert len(details) == 5 and details[0] == "heads" and details[-1] != "heads"
    assert "none" not in details, "room is kept for the sum over layers of every text"
    assert sum(len(example["data"]) for example in examples) <= 0.25e6
    first, *rest = some.left_out
    assert first == "1 more texts, which are in examples.jsonl"
    counts = {
        "single heads": details.count("layers"),
        "layers and heads": details.count("sentence"),
    }
    for phrase, count in counts.items():
        assert any(phrase in line and f" {count} text" in line for line in rest) == (count > 0)
    assert all(line in "".join(read(some.file).texts) for line in some.left_out)
    tight = write_report(many, tmp_path / "tight.html", max_megabytes=1e-6)
    assert tight.left_out == ["all matrices of 6 texts"]


def test_what_was_not_saved_is_said(explained, tmp_path):
    kept = ("token_pairs", "head_importance")
    summary = Explanation(explained[0].row, {name: explained[0].array(name) for name in kept})
    nothing = Explanation(explained[1].row, {})
    written = write_report([summary, nothing], tmp_path / "report.html")
    assert written.left_out == ["the matrices of 2 texts that were not saved"]
    first, second = read(written.file).examples
    assert (first["detail"], second["detail"]) == ("sentence", "none") and first["tree"] is None
    assert (
        len(matrices(first)[0]) == 1 and not len(matrices(first)[1]) and not first["listed_pairs"]
    )
    assert (
        second["importance"] is None
        and second["listed_pairs"][0][2] == explained[1].token_pairs[0]["attribution"]
    )


def test_the_same_explanations_give_the_same_page(explained, tmp_path):
    first, second = (
        write_report(explained, tmp_path / name).file.read_bytes() for name in ("a.html", "b.html")
    )
    assert first == second


def test_a_failure_leaves_the_page_that_was_there(explained, tmp_path):
    (tmp_path / "report.html").write_text("before")
    broken = Explanation(
        explained[0].row,
        {name: explained[0].array(name) for name in explained[0].array_names}
        | {"attributions": None},
    )
    with pytest.raises(AttributeError):
        write_report([explained[0], broken], tmp_path / "report.html", overwrite=True)
    arrays = {
        name: explained[0].array(name) * np.float32(np.nan) for name in explained[0].array_names
    }
    with pytest.raises(aa.InputError, match="not finite"):
        write_report(
            [Explanation(explained[0].row, arrays)], tmp_path / "report.html", overwrite=True
        )
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"] and (
        tmp_path / "report.html"
    ).read_text() == "before"


def test_only_a_report_is_replaced(explained, tmp_path):
    mine = tmp_path / "mine.html"
    for content in ("<!DOCTYPE html>\n<html><head><title>mine</title></head></html>", ""):
        mine.write_text(content)
        for show in (
            explained.show,
            explained[0].show,
            functools.partial(write_report, explained),
        ):
            with pytest.raises(
                aa.InputError, match=r"mine.html exists: name another file, or give overwrite=True$"
            ):
                show(mine)
        assert mine.read_text() == content
    assert (
        explained[0].show(mine, overwrite=True) == explained.show(mine) == mine
        and len(read(mine).examples) == 3
    )
    older = mine.read_text(encoding="utf-8").replace(
        '<meta name="generator" content="attattr-jax">\n', ""
    )
    mine.write_text(older, encoding="utf-8")
    assert len(read(explained[0].show(mine)).examples) == 1, (
        "an earlier version did not name itself"
    )


def test_unknown_deltas_are_not_shown_as_zero(tiny, tmp_path):
    batch = tiny.tokenize(TEXTS[:1])
    arguments = {"layers": [1, 0], "n_steps": 2}
    whole = aa.attribute_attention(tiny.params, batch, tiny.config, **arguments)
    reduced = aa.attribute_attention(
        tiny.params, batch, tiny.config, **arguments, reduce="head_max"
    )
    shown, exact = (
        read(aa.explanations_of(result, tiny, batch).show(tmp_path / "page.html"))
        for result in (reduced, whole)
    )
    assert shown.examples[0]["relative_deltas"] is None and not shown.examples[0]["listed_pairs"]
    np.testing.assert_allclose(
        shown.examples[0]["convergence_deltas"], whole.convergence_delta[0], atol=1e-7
    )
    assert max(exact.examples[0]["relative_deltas"]) > 1e-3
    assert shown.examples[0]["rough"] == exact.examples[0]["rough"] != []  # by the estimate
    (one,) = explanations_of(reduced, tiny, batch)
    check_row({**one.row, "arrays": None})
    summary = DatasetSummary()
    summary.add(one)
    assert summary.worst_delta == 0 and summary.token_pairs == []


def test_the_page_names_the_rules_that_were_used(explained, tmp_path):
    class Run(Explanations):
        run: ClassVar = {"options": {}}

    adaptive = "adaptive Lobatto rules, n_steps auto"
    for options, said, unsaid in (
        ({"n_steps": "auto", "method": "riemann_left"}, [adaptive], "riemann_left"),
        (
            {"n_steps": 20, "token_n_steps": "auto", "method": "riemann_left"},
            ["riemann_left, n_steps 20", adaptive],
            "gausslegendre",
        ),
        (
            {
                "n_steps": 20,
                "token_n_steps": "auto",
                "method": "gausslegendre",
                "skip_token_attributions": True,
            },
            [],
            adaptive,
        ),
    ):
        Run.run["options"] = options
        texts = read(write_report(Run(explained), tmp_path / "report.html").file).texts
        assert set(said) <= set(texts) and not any(unsaid in text for text in texts)


def test_cut_texts_are_marked(tiny, tmp_path):
    with pytest.warns(
        UserWarning, match=r"^1 of 2 texts longer than 32 tokens: 30 tokens were cut$"
    ):
        explained = aa.explain_texts(tiny, ["good " * 60, "good"], n_steps=2)
    assert [one.num_cut_tokens for one in explained] == [30, 0]
    page = read(explained.show(tmp_path / "report.html"))
    assert [example["num_cut_tokens"] for example in page.examples] == [30, 0] and page.texts.count(
        "cut"
    ) == 1


def test_in_a_notebook_the_page_is_a_frame(tiny, explained):
    for shown, count in ((explained, 3), (explained[0], 1)):
        frame = Page(shown._repr_html_())
        assert frame.tags == ["div", "iframe", "script"]
        assert dict(frame.attributes)["sandbox"] == "allow-scripts"
        assert len(Page(dict(frame.attributes)["srcdoc"]).examples) == count
    batch = tiny.tokenize(TEXTS[:2])
    result = aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=3)
    numbers = Page(
        dict(Page(aa.explanations_of(result)._repr_html_()).attributes)["srcdoc"]
    ).examples[0]
    assert numbers["tokens"][:2] == ["0", "1"] and numbers["predicted"] in ("0", "1")
    reduced = aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=3, reduce="head_max")
    heads_only = Page(
        dict(Page(aa.explanations_of(reduced)._repr_html_()).attributes)["srcdoc"]
    ).examples[0]
    assert heads_only["detail"] == "none" and np.shape(heads_only["importance"]) == (2, 4)


def test_show_writes_a_file_where_there_is_no_notebook(tiny, explained, tmp_path):
    batch = tiny.tokenize(TEXTS)
    result = aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=3)
    file = aa.explanations_of(result, tiny, batch).show(tmp_path / "result.html")
    for shown, one in zip(read(file).examples, explained, strict=True):
        assert shown["tokens"] == one.tokens and shown["predicted"] == one.predicted
        np.testing.assert_allclose(
            shown["importance"], one.array("head_importance"), rtol=1e-4, atol=1e-9
        )
    assert (
        explained.show().name == "report.html"
        and read(explained[2].show(tmp_path / "one.html")).examples[0]["text"] == TEXTS[2]
    )


def test_show_displays_the_frame_in_a_notebook(explained, monkeypatch):
    displayed = []
    kernel_shell = types.SimpleNamespace(has_trait=lambda name: name == "kernel")
    monkeypatch.setattr(builtins, "get_ipython", lambda: kernel_shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(
        sys.modules, "IPython.display", types.SimpleNamespace(HTML=str, display=displayed.append)
    )
    assert explained.show() is None and displayed == [explained._repr_html_()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_examples": 0}, "must be an integer of at least 1"),
        ({"max_megabytes": float("nan")}, "must be more than 0"),
        ({"tree_threshold": 2}, "threshold must be"),
        ({"explanations": []}, "no explanations to report"),
        ({"file": "."}, "is a folder: name a file in it, such as report.html"),
    ],
)
def test_bad_arguments(explained, tmp_path, arguments, message):
    with pytest.raises(aa.InputError, match=message):
        write_report(**({"explanations": explained, "file": tmp_path / "report.html"} | arguments))
    assert not list(tmp_path.iterdir())
