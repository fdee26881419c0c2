import json
import shutil
import subprocess

import numpy as np
import pytest

import attattr_jax as aa

TOKENS = ("[CLS]", "a", "b", "c", "d", "[SEP]")


def layers(*edges_by_layer, num_tokens=6):
    """Return [L, T, T] with these {(from, to): attribution}."""
    values = np.zeros((len(edges_by_layer), num_tokens, num_tokens))
    for matrix, edges in zip(values, edges_by_layer, strict=True):
        for pair, value in edges.items():
            matrix[pair] = value
    return values


# By hand. Layer 2, the last but one: a is the root (2.5 against b's 1.7) and takes b and c; b may
# not take d yet. Layer 1: b takes d; the [CLS] row neither counts as the largest nor takes c. Layer
# 0: a, whose children are from layer 2, takes [SEP], at the lowest level there is by then, 2; d
# takes [CLS]. Layer 3, the last, has nothing outside the [CLS] row.
WORKED = layers(
    {(1, 5): 1.0, (4, 0): 0.45, (4, 3): 0.9},
    {(2, 4): 0.8, (0, 3): 5.0, (2, 5): 0.32},
    {(1, 2): 1.0, (1, 3): 0.5, (2, 4): 0.9, (1, 1): 7.0, (1, 4): 0.4 * 7.0},
    {(0, 1): 3.0},
)
WORKED[2, 1, [1, 4]] = 0, 0.4  # 0.4 of the largest is not more than τ


def test_a_tree_worked_by_hand():
    tree = aa.attribution_tree(WORKED, TOKENS)
    assert tree.root == 1
    assert tree.edges == [(1, 2, 2), (1, 3, 2), (2, 4, 1), (1, 5, 0), (4, 0, 0)]
    assert {node.token: node.level for node in tree.nodes} == {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 0: 3}
    assert [node.attribution for node in tree.nodes[1:]] == [1.0, 0.5, 0.8, 1.0, 0.45]
    assert [node.proportion for node in tree.nodes[1:]] == [1.0, 0.5, 1.0, 1.0, 0.45]
    assert tree.objective == pytest.approx(3.75)


def test_heads_are_summed():
    heads = np.stack([0.25 * WORKED, 0.75 * WORKED], axis=1)
    assert aa.attribution_tree(heads, TOKENS).nodes == aa.attribution_tree(WORKED, TOKENS).nodes


def test_a_token_that_joined_takes_others_in_the_same_layer_if_its_row_is_still_to_come():
    downward = layers({(2, 3): 1.0, (3, 4): 1.0}, {(1, 2): 1.0, (1, 5): 0.9}, {})
    assert aa.attribution_tree(downward, TOKENS).edges == [
        (1, 2, 1),
        (1, 5, 1),
        (2, 3, 0),
        (3, 4, 0),
    ]
    upward = layers({(5, 3): 1.0, (3, 4): 1.0}, {(1, 2): 1.0, (1, 5): 0.9}, {})
    assert aa.attribution_tree(upward, TOKENS).edges == [(1, 2, 1), (1, 5, 1), (5, 3, 0)]


def test_threshold_and_penalty_leave_edges_out():
    assert aa.attribution_tree(WORKED, TOKENS, threshold=0.6).edges == [
        (1, 2, 2),
        (2, 4, 1),
        (1, 5, 0),
        (4, 3, 0),
    ]
    tree = aa.attribution_tree(WORKED, TOKENS, penalty=0.48)
    assert tree.edges == [(1, 2, 2), (1, 3, 2), (2, 4, 1), (1, 5, 0)]
    assert tree.objective == pytest.approx(3.3 - 4 * 0.48)


@pytest.mark.parametrize(
    "values",
    [
        -np.ones((3, 4, 4)),
        np.zeros((3, 4, 4)),
        np.ones((1, 4, 4)),
        np.ones((3, 1, 1)),
        *np.random.default_rng(0).normal(size=(20, 5, 9, 9)),
        *np.random.default_rng(1).normal(size=(5, 12, 3, 40, 40)),
    ],
)
def test_it_is_a_tree_whatever_the_input(values):
    tree = aa.attribution_tree(values, threshold=0.3)
    levels = {node.token: node.level for node in tree.nodes}
    assert len(levels) == len(tree.nodes) and levels[tree.root] == 0
    joined = {tree.root}
    for parent, child, layer in tree.edges:
        assert parent in joined and parent != 0 and child not in joined and layer <= len(values) - 2
        assert levels[child] > levels[parent]
        joined.add(child)
    places = tree.positions()
    assert set(places) == joined
    columns = [column for column, _ in places.values()]
    for node in tree.nodes:
        below = [places[child.token][0] for child in tree.children(node.token)]
        assert below == sorted(below) and (
            not below or places[node.token][0] == (below[0] + below[-1]) / 2
        )
    leaves = [places[node.token][0] for node in tree.nodes if not tree.children(node.token)]
    assert sorted(leaves) == list(range(len(leaves))) and min(columns) == 0


def test_json_and_text():
    tree = aa.attribution_tree(WORKED, TOKENS)
    stored = json.loads(tree.to_json())
    assert (stored["root"], stored["threshold"], stored["objective"]) == (
        1,
        0.4,
        pytest.approx(3.75),
    )
    assert [
        (node["parent"], node["token"], node["layer"]) for node in stored["nodes"][1:]
    ] == tree.edges
    assert [node["text"] for node in stored["nodes"]] == ["a", "b", "c", "d", "[SEP]", "[CLS]"]
    assert [line.split()[-4] for line in str(tree).splitlines()[1:]] == [
        "(2)",
        "(4)",
        "(0)",
        "(3)",
        "(5)",
    ]


def test_dot_quotes_tokens():
    tree = aa.attribution_tree(
        WORKED, ("[CLS]", 'say "hi"', "back\\slash", "two\nlines", "]; x", "</a>")
    )
    dot = tree.to_dot()
    for written in (
        r'1 [label="say \"hi\""];',
        r'2 [label="back\\slash"];',
        '3 [label="two lines"];',
        '4 [label="]; x"];',
        '5 [label="</a>"];',
    ):
        assert written in dot
    assert '2 -> 4 [label="layer 1\\n+0.8"];' in dot
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=dot.encode(), check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributions": np.ones((2, 3, 4))}, r"\[L, N, T, T\] or \[L, T, T\], not \[2, 3, 4\]"),
        ({"attributions": np.full((2, 3, 3), np.nan)}, "not finite"),
        ({"attributions": np.ones((2, 3, 3)), "tokens": ["a"]}, "1 tokens for attributions of 3"),
        ({"attributions": np.ones((2, 3, 3)), "threshold": 1.5}, "threshold must be from 0 to 1"),
        (
            {"attributions": np.ones((2, 3, 3)), "penalty": float("nan")},
            "penalty must be 0 or more",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(aa.InputError, match=message):
        aa.attribution_tree(**arguments)
