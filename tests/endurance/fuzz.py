"""Feed damaged files to everything that reads one, and count what comes of it. Bad input may only
ever give `attattr_jax.InputError`.

    python tests/endurance/fuzz.py --cases 12000 --seed 0 --failures runs/fuzz \\
        --output benchmarks/results/fuzz.json
    python tests/endurance/fuzz.py --replay runs/fuzz/00042.json

Each case is a valid file with a few mutations, read by a worker process that goes through many
cases. A case fails if anything but an InputError of one line comes out, if it takes longer than 20
seconds or a gigabyte of memory, if it writes outside the folder it may write to or starts a
program, or if the process dies. Every failure is kept as a file for --replay; the exit status is
then 1. The same seed gives the same cases, whatever the number of workers.

A new kind of file is one function: see `kind`.
"""

from __future__ import annotations

import argparse
import base64
import collections
import copy
import faulthandler
import functools
import json
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from attattr_jax.data.batches import encode
from attattr_jax.data.labels import class_indices, label_names
from attattr_jax.data.splits import load_split
from attattr_jax.explanations import parts
from attattr_jax.models.checkpoint import load_head
from attattr_jax.pruning import importance_file
from attattr_jax.pruning.masks import keep_top_heads, prune_lowest_heads
from attattr_jax.runtime.files import Journal, read_run, write_json
from attattr_jax.views.report import write_report

sys.path.append(str(Path(__file__).parent.parent))  # for the tiny classifier

HANG_SECONDS = 20
# Later: code that does not even let Python handle the alarm is ended from outside
DEATH_SECONDS = 15
LIMIT_BYTES = 4 * 2**30  # of address space, beyond what is taken at the start
PEAK_BYTES = 2**30  # of memory really used by one case
LONGEST_MESSAGE = 2000  # characters: more is not one clear line
CLEAR_EVERY = 200  # cases: compiled programs of as many configurations are kept

TEXTS = ("the film is very good .", "bad", "a dull story , but the music is lovely")
WORDS = "a the film movie story plot music is was not but very good bad dull lovely , .".split()
WORDS += ["##s", "##ly"]


# ---- What is read --------------------------------------------------------------------------------


class Input(NamedTuple):
    """One kind of file, ready to be damaged."""

    file: Path  # valid; what lies beside it is valid too, and stays
    read: Callable[[], Any]  # reads it as users' commands do


class Kind(NamedTuple):
    """How a kind of file is made and mutated."""

    form: str  # "json", "lines" (of JSON), "text" or "safetensors"
    share: float  # of the cases
    make: Callable[[Path, Path, Path], Input]


KINDS: dict[str, Kind] = {}


def kind(name: str, form: str, share: float):
    """Register make(inputs, folder, out) -> Input. `inputs` has what `make_inputs` made; `folder`
    is empty, the function's own, and what it puts there is what is read; `out` is the one place
    that reading may write to.
    """

    def register(make):
        KINDS[name] = Kind(form, share, make)
        return make

    return register


def make_inputs(inputs: Path) -> None:
    """Make a tiny model, whole and in shards, and a folder of explanations by it."""
    import numpy as np
    import safetensors.numpy
    from tiny_classifier import make_tiny

    import attattr_jax as aa

    classifier = make_tiny(WORDS)
    aa.save_classifier(classifier, inputs / "model")
    aa.save_classifier(aa.remove_heads(classifier, [[0, 1, 1, 1], [1, 1, 0, 1]]), inputs / "pruned")

    shutil.copytree(inputs / "model", inputs / "sharded")
    whole = inputs / "sharded" / "model.safetensors"
    tensors = safetensors.numpy.load_file(whole)
    whole.unlink()
    weight_map = {
        name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))
    }
    for file in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        safetensors.numpy.save_file(part, inputs / "sharded" / file)
    write_json(
        inputs / "sharded" / "model.safetensors.index.json",
        {"metadata": {"total_size": 1}, "weight_map": weight_map},
    )

    explained = aa.explain_texts(classifier, TEXTS, labels=[1, 0, 0], n_steps=2)
    folder = inputs / "explanations"
    writer = parts.ExplanationWriter(folder)
    for one in explained:
        writer.add(one)
        if one.index == explained[0].index:
            writer.flush()
    writer.flush()
    shutil.copytree(folder, inputs / "unfinished")
    parts.join(folder, len(TEXTS), parts.put_in_order(folder, len(TEXTS)))
    run = {
        "script": "attribute",
        "finished": True,
        "options": {
            "checkpoint": "runs/tiny",
            "n_steps": 2,
            "method": "gausslegendre",
            "layers": None,
        },
        "packages": {"attattr-jax": "0.1.0"},
        "started": "2026-01-01T00:00:00+00:00",
        "results": {"num_examples": 3},
    }
    write_json(folder / "run.json", run)
    importance = np.mean([one.array("head_importance") for one in explained], axis=0)
    record = importance_file.importance_record(
        "attribution", importance, classifier.fingerprint(), "gold", ["0" * 16, "1" * 16]
    )
    write_json(inputs / "head_importance.json", record)


def _each(*calls: Callable[[], Any]) -> None:
    """Make every call, though one before it may have refused its input; the first refusal
    counts.
    """
    from attattr_jax import InputError

    refusal = None
    for call in calls:
        try:
            call()
        except InputError as error:
            refusal = refusal or error
    if refusal:
        raise refusal


def _use_model(folder: Path, num_labels: int | None = None) -> None:
    import attattr_jax as aa

    def use():
        classifier = aa.load_classifier(folder, num_labels)
        classifier.fingerprint()
        classifier.tokenize(list(TEXTS))

    _each(use, lambda: load_head(folder))


def _model_kind(
    name: str, model: str, file: str, form: str, share: float, num_labels: int | None = None
) -> None:
    @kind(name, form, share)
    def make(inputs: Path, folder: Path, out: Path) -> Input:
        shutil.copytree(inputs / model, folder, dirs_exist_ok=True)
        return Input(folder / file, lambda: _use_model(folder, num_labels))


_model_kind("config.json", "model", "config.json", "json", 14)
_model_kind("config.json, some heads removed", "pruned", "config.json", "json", 8)
# Compiles: slow
_model_kind("config.json, new head", "model", "config.json", "json", 0.3, num_labels=3)
_model_kind("model.safetensors", "model", "model.safetensors", "safetensors", 14)
_model_kind("model.safetensors.index.json", "sharded", "model.safetensors.index.json", "json", 8)
_model_kind("tokenizer.json", "model", "tokenizer.json", "json", 5)
_model_kind("tokenizer_config.json", "model", "tokenizer_config.json", "json", 4)


def _data_kind(suffix: str, form: str, content: str) -> None:
    @kind(suffix, form, 5)
    def make(inputs: Path, folder: Path, out: Path) -> Input:
        import attattr_jax as aa

        file = folder / f"films{suffix}"
        file.write_text(content, encoding="utf-8")
        classifier = aa.load_classifier(inputs / "model")

        def read():
            split = load_split(str(file), "train")
            _each(
                lambda: [
                    split.fingerprint(),
                    split.row(len(split) - 1),
                    split.select([0]).fingerprint(),
                ],
                lambda: label_names(split, classifier.id2label),
                lambda: class_indices(split, classifier.id2label),
                lambda: encode(classifier, split, 32).batch(range(min(len(split), 3)), 4, 0, 32),
            )

        return Input(file, read)


_ROWS = [
    (text, pair, label)
    for text, pair in zip(TEXTS, reversed(TEXTS), strict=True)
    for label in (0, 1)
]
_data_kind(
    ".tsv", "text", "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, _, label in _ROWS)
)
_data_kind(
    ".csv",
    "text",
    "premise,hypothesis,label\r\n"
    + "".join(f'"{text}","""{pair}""",{label}\r\n' for text, pair, label in _ROWS),
)
_data_kind(
    ".jsonl",
    "lines",
    "".join(
        json.dumps({"sentence": text, "label": ("negative", "positive")[label], "id": 1.5}) + "\n"
        for text, _, label in _ROWS
    ),
)


@kind("head_importance.json", "json", 14)
def _importance(inputs: Path, folder: Path, out: Path) -> Input:

    file = folder / "head_importance.json"
    shutil.copy(inputs / file.name, file)
    model = json.loads(file.read_text())["model"]

    def read():
        found = importance_file.read_importance(file)["importance"]
        _each(
            lambda: importance_file.read_importance(file, (2, 4), model),
            lambda: [keep_top_heads(found, 1), prune_lowest_heads(found, 0.5)],
            lambda: importance_file.correlate(found, found[::-1]),
        )

    return Input(file, read)


@kind("run.json", "json", 6)
def _run(inputs: Path, folder: Path, out: Path) -> Input:

    shutil.copy(inputs / "explanations" / "run.json", folder)
    return Input(folder / "run.json", lambda: read_run(folder).get("options", {}).keys())


def _explanations_kind(file: str, form: str, shares: tuple[float, float]) -> None:
    """Two kinds: what the objects give, and the report."""

    def make(inputs: Path, folder: Path, out: Path, is_report: bool) -> Input:
        import attattr_jax as aa

        shutil.copytree(inputs / "explanations", folder, dirs_exist_ok=True)
        (
            folder / "manifest.json"
        ).unlink()  # with it, any damage of the rows is seen before they are read

        def use(example):
            _each(
                *(functools.partial(example.array, name) for name in example.array_names),
                lambda: [
                    example.relative_deltas,
                    example.words,
                    example.word_labels,
                    example.has_all_layers,
                ],
                lambda: example.token_pair_attributions,
                lambda: str(example.tree()),
                lambda: example.tree(words=True).to_json(),
            )

        def read():
            stored = aa.load_attributions(folder)
            if is_report:
                write_report(stored, out / "report.html")
            else:
                _each(*(lambda at=at: use(stored[at]) for at in range(len(stored))))

        return Input(folder / file, read)

    name = "shard-*.safetensors" if form == "safetensors" else file
    if shares[0]:
        kind(name, form, shares[0])(functools.partial(make, is_report=False))
    kind(f"{name}, report", form, shares[1])(functools.partial(make, is_report=True))


def _resumed_kind(name: str, source: str, file: str, form: str, share: float) -> None:
    """A folder of explanations with something damaged, gone on with: all that was explained has to
    be there in the end.
    """

    @kind(name, form, share)
    def make(inputs: Path, folder: Path, out: Path) -> Input:
        import attattr_jax as aa

        shutil.copytree(inputs / source, folder, dirs_exist_ok=True)
        explained = [one.loaded() for one in aa.load_attributions(inputs / "explanations")]

        def read():
            run = out / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(folder, run)
            parts.reopen(run, len(TEXTS))
            done = parts.done(run, len(TEXTS))
            writer = parts.ExplanationWriter(run)
            for one in explained:
                if one.index not in done:
                    writer.add(one)
            writer.flush()
            parts.join(run, len(TEXTS), parts.put_in_order(run, len(TEXTS)))
            for one, again in zip(explained, aa.load_attributions(run), strict=True):
                assert one.row | {"arrays": None} == again.row | {"arrays": None}, (
                    "something is lost, or taken for something else"
                )
                assert all(
                    (one.array(name) == again.array(name)).all() for name in one.array_names
                ), "an array is another's"

        return Input(folder / file, read)


_resumed_kind("a process's manifest", "unfinished", "parts/manifest-0000.jsonl", "lines", 8)
_resumed_kind("rows of an unfinished run", "unfinished", "parts/rows-0000-00001.jsonl", "lines", 2)
_resumed_kind(
    "shard of an unfinished run", "unfinished", "shard-0000-00001.safetensors", "safetensors", 2
)
_resumed_kind("manifest.json", "explanations", "manifest.json", "json", 8)
_resumed_kind("examples.jsonl of a resumed run", "explanations", "examples.jsonl", "lines", 2)


@kind("progress.jsonl", "lines", 4)
def _journal(inputs: Path, folder: Path, out: Path) -> Input:

    file = folder / "progress.jsonl"
    valid = {f"point {number}": [number, 0.1 * number, {"accuracy": 1 / 3}] for number in range(5)}
    for name, value in valid.items():
        Journal(file).put(name, value)

    def read():
        shutil.copy(file, out / file.name)
        journal = Journal(out / file.name)
        assert all(journal.get(name) in (None, value) for name, value in valid.items()), (
            "a damaged line counts"
        )
        journal.put("after", 1)
        assert Journal(out / file.name).get("after") == 1, "what is written after damage is lost"

    return Input(file, read)


_explanations_kind("run.json", "json", (0, 6))
_explanations_kind("examples.jsonl", "lines", (8, 8))
_explanations_kind("shard-0000-00000.safetensors", "safetensors", (7, 7))


# ---- How it is damaged ---------------------------------------------------------------------------


class Raw(str):
    """JSON text that no value has, or that no encoder would get through."""


class Pairs(list):
    """The (key, value) pairs of an object, in which a key may stand twice."""


def to_json(value: Any) -> str:
    """Return a value as JSON, with everything that JSON forbids or nobody writes: NaN, a key twice,
    raw text.
    """
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, (dict, Pairs)):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ", ".join(f"{json.dumps(key)}: {to_json(each)}" for key, each in pairs) + "}"
    return (
        "[" + ", ".join(map(to_json, value)) + "]" if isinstance(value, list) else json.dumps(value)
    )


DEEP = 100_000
PATHS = [
    "../../x",
    "/etc/passwd",
    "~root",
    "~root/x",
    "~nobody\0",
    "file:///etc/passwd",
    "x/../../y",
    ".",
    "..",
    "/dev/stdin",
    "C:\\x",
]
STRINGS = [
    *PATHS,
    "",
    " ",
    "0",
    "-1",
    "1e9",
    "nan",
    "None",
    "\ud800",
    "a\0b",
    "\n",
    "\u202e",
    "##",
    "[CLS]",
    "{{7*7}}",
    "</script>",
    "%s",
]
NUMBERS = [
    0,
    -0.0,
    1,
    -1,
    2,
    3,
    5,
    16,
    0.5,
    -7,
    10**3,
    10**5,
    10**6,
    10**9,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
]
NUMBERS += [
    2**62,
    2**63,
    2**64,
    -(2**63),
    10**400,
    -(10**400),
    1e-320,
    1e30,
    1e308,
    -1e308,
    math.nan,
    math.inf,
    -math.inf,
]
NUMBERS += [Raw("1e400"), Raw("9" * 5000), Raw("-")]
NESTED = [
    Raw("[" * DEEP),
    Raw("[" * DEEP + "]" * DEEP),
    Raw('{"a":' * DEEP + "1" + "}" * DEEP),
    Raw('{"a":[' * 200 + "]}" * 200),
]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"0": []},
    [{}],
    [0, 0],
    [1.5],
    ["a"],
    {"a": 1},
    {"-1": [0]},
]
DTYPES = [
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "X",
    "f32",
]
DIMENSIONS = [0, 1, 2, 3, 7, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, -1, 1.0]
HEADER_CHANGES = [
    "length",
    "dtype",
    "view",
    "shape",
    "shape",
    "turn",
    "offsets",
    "offsets",
    "share",
    "data",
    "data",
    "json",
    "json",
    "json",
    "bytes",
]
BITS = [
    b'"',
    b"'",
    b"\t",
    b",",
    b"\r",
    b"\n",
    b"\n\n",
    b"\0",
    b"\x1a",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
]
BITS += [
    b" ",
    b"-1",
    b"0.5",
    b"1e308",
    b"9" * 400,
    b"nan",
    b"null",
    b"\\",
    b"\\N",
    b"#",
    b"{",
    b"}",
    b"[",
    b"\xf0\x9f\x98\x80",
]
BITS += [b"e\xcc\x81", b"\xc2\x85"]


def hostile(random: Random) -> Any:
    """Return a value that somebody did not think of."""
    at = random.random()
    if at < 0.02:
        return random.choice(NESTED)
    if at < 0.04:
        return random.choice(["\u00e9", "ab ", "\ud800", "9"]) * random.choice([5000, 300_000])
    return copy.deepcopy(random.choice(random.choice([NUMBERS, NUMBERS, STRINGS, OTHERS])))


def _place(random: Random, root: list) -> tuple[Any, Any]:
    """Return (container, key) of some value below `root`, a list around the document; each level is
    as likely as another.
    """
    container, key = root, 0
    while (
        isinstance(container[key], (dict, list))
        and not isinstance(container[key], Pairs)
        and container[key]
        and random.random() < 0.75
    ):
        container = container[key]
        key = (
            random.choice(list(container))
            if isinstance(container, dict)
            else random.randrange(len(container))
        )
    return container, key


def change_value(random: Random, document: Any) -> tuple[Any, str]:
    """Return a JSON document with one change to its structure, and what was done."""
    root = [document]
    container, key = _place(random, root)
    # The whole document is seldom the point
    if container is root and isinstance(document, (dict, list)) and random.random() < 0.9:
        container, key = (container, key) if not document else _place(random, root)
    value = container[key]
    what = random.choice(
        ["replace"] * 6
        + ["nudge"] * 3
        + ["delete"] * 2
        + ["twice", "wrap", "swap", "rename", "text", "repeat", "extra"]
    )
    if what == "nudge" and isinstance(value, (int, float)) and not isinstance(value, bool):
        factor = random.choice([-1, 2, 3, 1000, 10**12])
        container[key] = random.choice(
            [value + 1, value - 1, -value, value * factor, Raw(f"{value!r}.0"), [value]]
        )
    elif what == "delete" and container is not root:
        del container[key]
    elif what == "twice" and isinstance(value, dict) and value:
        again = random.choice(list(value))
        container[key] = Pairs(
            [*value.items(), (again, random.choice([value[again], hostile(random)]))]
        )
    elif what == "wrap":
        container[key] = random.choice([[value], {"a": value}, [value, value]])
    elif what == "swap":
        other, at = _place(random, root)
        container[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(value)
    elif what == "rename" and isinstance(container, dict):
        name = random.choice([*STRINGS, "a" * 300_000, str(key).upper(), f"{key}x"])
        container[name] = container.pop(key)
    elif what == "text":
        container[key] = str(value) if not isinstance(value, (dict, list)) else to_json(value)
    elif (
        what == "repeat" and isinstance(value, (list, str)) and not isinstance(value, (Raw, Pairs))
    ):
        container[key] = (
            value * random.choice([2, 3, 50]) if random.random() < 0.5 else value[: len(value) // 2]
        )
    elif what == "extra" and isinstance(value, dict):
        value[random.choice(STRINGS)] = hostile(random)
    else:
        what = "replace"
        container[key] = hostile(random)
    return root[0], f"{what} {str(key)[:40]!r}"


def change_bytes(random: Random, content: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Return bytes with one change, and what was done."""
    size = len(content)
    start, end = sorted((random.randint(0, size), random.randint(0, size)))
    if random.random() < 0.6:
        end = min(end, start + 16)
    piece = content[start:end]
    what = random.choice(
        [
            "flip",
            "flip",
            "cut",
            "delete",
            "double",
            "swap",
            "splice",
            "insert",
            "insert",
            "fill",
            "many",
        ]
    )
    if what == "flip" and size:
        changed = bytearray(content)
        for _ in range(random.choice([1, 1, 4, 50])):
            changed[random.randrange(size)] ^= 1 << random.randrange(8)
        return bytes(changed), what
    if what == "swap":
        middle = random.randint(start, end)
        return (
            content[:start] + content[middle:end] + content[start:middle] + content[end:],
            f"{what} {start}:{middle}:{end}",
        )
    if what == "splice":
        other = random.choice(others)
        first, last = sorted((random.randint(0, len(other)), random.randint(0, len(other))))
        return content[:start] + other[first:last] + content[end:], f"{what} {start}:{end}"
    new = {
        "cut": content[:start],
        "delete": content[:start] + content[end:],
        "double": content[:end] + piece + content[end:],
        "insert": content[:start] + random.choice(BITS) + content[start:],
        "fill": (
            content[:start]
            + random.choice([b"\0", b"\xff", b"a", b" "]) * (end - start)
            + content[end:]
        ),
        "many": (
            content[:start] + random.choice(BITS) * random.choice([100, 20_000]) + content[start:]
        ),
    }
    return new.get(what, content[:-1]), f"{what} {start}:{end}"


def change_lines(random: Random, content: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Return lines of text with one of them moved, or with one field of it replaced."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    separator = b"\t" if b"\t" in content else b","
    fields = lines[at].split(separator)
    what = random.choice(["field", "field", "field", "drop", "again", "bytes"])
    if what == "field":
        value = random.choice([hostile(random), random.choice(BITS).decode("latin-1")])
        text = value if isinstance(value, str) else to_json(value)
        fields[random.randrange(len(fields))] = text.encode("utf-8", "surrogatepass")
        lines[at] = separator.join(fields)
    elif what == "drop":
        del lines[at]
    elif what == "again":
        lines.insert(random.randrange(len(lines)), lines[at])
    else:
        return change_bytes(random, content, others)
    return b"\n".join(lines), f"{what} of line {at}"


def change_safetensors(
    random: Random, content: bytes, others: Sequence[bytes]
) -> tuple[bytes, str]:
    """Return a safetensors file with one change to its header, its length field or its data."""
    try:
        size = struct.unpack("<Q", content[:8])[0]
        header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
        names = [name for name in header if name != "__metadata__"]
        first, second = (header[random.choice(names)] for _ in range(2))
        start, end = first["data_offsets"]
        shape = [*first["shape"]]
        offsets = second["data_offsets"]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        struct.error,
    ):  # it has been damaged before
        return change_bytes(random, content, others)
    what = random.choice(HEADER_CHANGES)
    if what == "length":
        lengths = [
            0,
            1,
            7,
            size - 1,
            size + 1,
            len(content),
            len(content) - 8,
            100_000_001,
            2**31,
            2**62,
            2**63,
            2**64 - 9,
            2**64 - 1,
        ]
        return struct.pack("<Q", random.choice(lengths)) + content[8:], what
    if what == "bytes":
        return change_bytes(random, content, others)
    if what == "dtype":
        first["dtype"] = random.choice(DTYPES)
    elif what == "view":  # other numbers in the same bytes: the file stays valid
        first["dtype"], factor = random.choice(
            [
                ("I32", 1),
                ("U32", 1),
                ("F16", 2),
                ("BF16", 2),
                ("I8", 4),
                ("BOOL", 4),
                ("F8_E4M3", 4),
            ]
        )
        first["shape"] = (
            [*shape[:-1], shape[-1] * factor] if shape and isinstance(shape[-1], int) else shape
        )
    elif what == "shape":
        dimension = random.choice(DIMENSIONS)
        at = random.randrange(len(shape)) if shape else 0
        overflowing = [
            [2**32, 2**32],
            [2**62, 4],
            [2**63, 2],
            [0, 2**62],
            [2**62, 0],
            [3, 2**64 // 3 + 1],
            [1] * 40,
            [1] * 100,
            [],
        ]
        first["shape"] = random.choice(
            [
                [*shape[:at], dimension, *shape[at + 1 :]],
                [*shape, dimension],
                [dimension],
                *overflowing,
            ]
        )
    elif what == "turn":
        first["shape"] = random.choice([shape[::-1], [1, *shape], [*shape, 1], [1] * 29 + shape])
    elif what == "offsets":
        values = [
            start,
            end,
            0,
            4,
            start + 4,
            end - 4,
            len(data),
            len(data) + 4,
            2**62,
            2**63,
            2**64 - 4,
            2**64,
            -1,
        ]
        first["data_offsets"] = [random.choice([start, *values]), random.choice([end, *values])]
    elif what == "share":
        first["data_offsets"], second["data_offsets"] = random.choice(
            [(offsets, offsets), (offsets, [start, end])]
        )
    elif what == "data":
        piece = random.choice(
            [
                b"\0\0\xc0\x7f",
                b"\0\0\x80\x7f",
                b"\0\0\x80\xff",
                b"\xff\xff\x7f\x7f",
                b"\x01\0\0\0",
                b"\0\0\0\0",
            ]
        )
        # Offsets may be damaged already: no more is written than there is.
        count = (
            (min(end, len(data)) - start) // 4
            if isinstance(start, int) and isinstance(end, int)
            else 1
        )
        times = random.choice([1, max(0, count)])
        data = (
            data[:start] + piece * times + data[start + 4 * times :]
            if isinstance(start, int)
            else data
        )
    else:
        header, detail = change_value(random, header)
        what += f": {detail}"
    encoded = to_json(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + data, what


def change_json(random: Random, content: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Return a JSON file with one change, mostly to its structure."""
    try:
        document = json.loads(content) if random.random() < 0.88 else None
    except ValueError:  # damaged before
        document = None
    if document is None:
        return change_bytes(random, content, others)
    document, what = change_value(random, document)
    return to_json(document).encode("utf-8", "surrogatepass"), what


def change_json_lines(random: Random, content: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Return a file of a JSON object per line with one change, mostly to one of the objects."""
    lines = content.split(b"\n")
    at = random.randrange(max(1, len(lines) - 1))
    if random.random() < 0.1:
        return change_lines(random, content, others)
    lines[at], what = change_json(random, lines[at], others)
    return b"\n".join(lines), f"line {at}: {what}"


CHANGES = {
    "json": change_json,
    "lines": change_json_lines,
    "text": change_lines,
    "safetensors": change_safetensors,
}


def mutate(
    random: Random, form: str, valid: bytes, others: Sequence[bytes]
) -> tuple[bytes, list[str]]:
    """Return a damaged file and what was done to it, one to four changes."""
    content, done = valid, []
    for _ in range(random.choice([1, 1, 1, 1, 1, 2, 2, 3, 4])):
        try:
            content, what = CHANGES[form](random, content, others)
        except (
            RecursionError
        ):  # what an earlier change has made is nested too deeply to be changed as a value
            content, what = change_bytes(random, content, others)
        done.append(what)
    return content, done


# ---- How it is watched ---------------------------------------------------------------------------


class Hang(BaseException):
    """Raised by the alarm; no reader that catches `Exception` may keep it."""


class Outcome(NamedTuple):
    """What came of a case."""

    type: str  # "accepted", "refused", or what failed
    site: str = ""  # where in attattr_jax
    detail: str = ""  # message or traceback

    @property
    def is_failure(self) -> bool:
        """Whether it is a bug."""
        return self.type not in ("accepted", "refused")


# Audit events: the positions of paths, and of the open folder that a relative one starts from
_PATHS = {
    "os.mkdir": [(0, 2)],
    "os.rename": [(0, 2), (1, 3)],
    "os.remove": [(0, 1)],
    "os.rmdir": [(0, 1)],
    "os.link": [(1, 3)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
}
_NEVER = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pickle.find_class",
}
_NEVER |= {"socket.connect", "socket.getaddrinfo", "socket.bind"}


class Watch:
    """Notes every write outside certain folders, and every program started, while it is switched
    on.

    Only what Python does is seen: audit hooks know nothing of writes by compiled libraries. A hook
    cannot be taken off again.
    """

    def __init__(self):
        self.allowed: list[str] | None = None  # None: off
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.allowed is None:
            return
        if event in _NEVER:
            self.seen.append(f"{event} {args!r:.300}")
        elif (
            event == "open"
            and isinstance(args[2], int)
            and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        ):
            self._check(event, args[0])
        else:
            for path, folder in _PATHS.get(event, ()):
                self._check(event, args[path], -1 if folder is None else args[folder])

    def _check(self, event: str, path: Any, folder: int = -1) -> None:
        if isinstance(path, int):
            return
        where = os.fsdecode(path)
        if folder >= 0 and os.path.exists(f"/proc/self/fd/{folder}"):
            where = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), where)
        where = os.path.realpath(where)
        if where != os.devnull and not any(
            where == allowed or where.startswith(allowed + os.sep) for allowed in self.allowed
        ):
            self.seen.append(f"{event} {where}")


@functools.cache
def watch() -> Watch:
    """Return the one of this process."""
    return Watch()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _site(error: BaseException) -> str:
    """Return the innermost line of attattr_jax that an exception passed."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"attattr_jax{os.sep}" in frame.filename
    ]
    return (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
    )


def _hides_memory_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)[:1000]:
            return True
        error = error.__context__
    return False


def judge(
    read: Callable[[], Any], allowed: Sequence[Path] = (), seconds: float = HANG_SECONDS
) -> Outcome:
    """Call `read` and say what came of it.

    Args:
      read: to be called.
      allowed: the folders that it may write to, beside the one for temporary files.
      seconds: how long it may take.
    """
    from attattr_jax import InputError

    def alarm(*_):
        raise Hang(f"longer than {seconds} seconds")

    before, was = _peak_bytes(), signal.signal(signal.SIGALRM, alarm)
    watch().seen.clear()
    watch().allowed = [os.path.realpath(folder) for folder in (*allowed, tempfile.gettempdir())]
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            read()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch().allowed = None
    except InputError as error:
        message, site = str(error), _site(error)
        if _hides_memory_error(error):
            outcome = Outcome("huge allocation", site, "".join(traceback.format_exception(error)))
        elif len(message.splitlines()) != 1 or len(message) > LONGEST_MESSAGE:
            outcome = Outcome("message is not a line", site, repr(message[:LONGEST_MESSAGE]))
        else:
            outcome = Outcome("refused", site, message)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a PanicException of a Rust library is no Exception
        outcome = Outcome(
            type(error).__name__, _site(error), "".join(traceback.format_exception(error))[-20_000:]
        )
    else:
        outcome = Outcome("accepted")
    finally:
        signal.signal(signal.SIGALRM, was)
    if watch().seen:
        outcome = Outcome("forbidden act", watch().seen[0].split(" ")[0], "\n".join(watch().seen))
    elif _peak_bytes() - before > PEAK_BYTES and not outcome.is_failure:
        outcome = Outcome(
            "huge allocation",
            outcome.site,
            f"{_peak_bytes() - before} bytes; {outcome.type} {outcome.detail}",
        )
    return outcome


# ---- How all is run ------------------------------------------------------------------------------


class Bench:
    """All kinds, set up in a folder of their own."""

    def __init__(self, inputs: Path, folder: Path):
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        self.made: dict[str, Input] = {}
        for number, (name, each) in enumerate(KINDS.items()):
            place = folder / f"{number:02d}"
            place.mkdir()
            self.made[name] = each.make(inputs, place, self.out)
        self.valid = {name: made.file.read_bytes() for name, made in self.made.items()}
        self._others = [content[:100_000] for content in self.valid.values()]

    def case(self, seed: int, number: int) -> tuple[str, bytes, list[str]]:
        """Return kind, content and mutations of a case."""
        random = Random(f"{seed}/{number}")
        (name,) = random.choices(list(KINDS), [each.share for each in KINDS.values()])
        return name, *mutate(random, KINDS[name].form, self.valid[name], self._others)

    def run(self, name: str, content: bytes) -> Outcome:
        """Read a file of this content."""
        made = self.made[name]
        made.file.write_bytes(content)
        return judge(made.read, [self.out])

    def check(self) -> None:
        """Read all that is valid: what fails now is no matter of mutations."""
        for name, content in self.valid.items():
            outcome = self.run(name, content)
            assert outcome.type == "accepted", f"{name} is valid, but: {outcome}"


def _limit_memory() -> None:
    """Let an allocation of gigabytes fail at once, where the system can do that."""
    if sys.platform == "linux":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(
            resource.RLIMIT_AS, (taken + LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1])
        )


def _environment(folder: Path) -> dict[str, str]:
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    settings = {
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(temporary / "huggingface"),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return os.environ | settings


def work(args: argparse.Namespace) -> None:
    """Go through cases as a worker: a line when one begins and one when it has ended, on what was
    stdout.
    """
    import jax

    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes with the complaints
    folder = Path(args.folder)
    bench = Bench(Path(args.inputs), folder / f"from-{args.start}")
    bench.check()
    os.chdir(folder)
    _limit_memory()
    numbers = range(args.start, args.cases, args.step)
    for done, number in enumerate(numbers, 1):
        if args.replay:
            record = json.loads(Path(args.replay).read_text())
            name, content, mutations = (
                record["kind"],
                zlib.decompress(base64.b64decode(record["content"])),
                record["mutations"],
            )
        else:
            name, content, mutations = bench.case(args.seed, number)
        print(json.dumps([number, name, str(bench.made[name].file), mutations]), file=channel)
        faulthandler.dump_traceback_later(HANG_SECONDS + DEATH_SECONDS, exit=True)
        start = time.perf_counter()
        outcome = bench.run(name, content)
        seconds = time.perf_counter() - start
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([number, *outcome, seconds]), file=channel)
        if done % CLEAR_EVERY == 0:
            jax.clear_caches()


class Results:
    """Counts outcomes, and keeps failures as files."""

    def __init__(self, seed: int, failures: Path | None):
        self.seed, self.failures = seed, failures
        self.counts = collections.defaultdict(collections.Counter)
        self.groups: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.slowest = (0.0, "")
        self.last: Outcome | None = None
        self._lock = threading.Lock()

    def add(self, begun: list, outcome: Outcome, seconds: float) -> None:
        """Count one; its file is still what was read."""
        number, name, file, mutations = begun
        with self._lock:
            self.last = outcome
            self.counts[name][outcome.type] += 1
            self.slowest = max(self.slowest, (seconds, f"case {number}, {name}"))
            if not outcome.is_failure:
                return
            key = (name, outcome.type, outcome.site)
            group = self.groups.setdefault(
                key, {"kind": name, "type": outcome.type, "site": outcome.site, "count": 0}
            )
            group["count"] += 1
            if self.failures is not None:
                content = base64.b64encode(zlib.compress(Path(file).read_bytes())).decode()
                record = {
                    "kind": name,
                    "seed": self.seed,
                    "case": number,
                    "mutations": mutations,
                    "type": outcome.type,
                }
                record |= {"site": outcome.site, "traceback": outcome.detail, "content": content}
                self.failures.mkdir(parents=True, exist_ok=True)
                kept = self.failures / f"{number:05d}.json"
                kept.write_text(json.dumps(record, indent=1))
                group.setdefault("replay", str(kept))

    def summary(self, seconds: float) -> dict[str, Any]:
        """Return the counts as what JSON can hold."""

        def of(counter):
            failed = {
                name: count for name, count in sorted(counter.items()) if Outcome(name).is_failure
            }
            totals = {name: counter[name] for name in ("accepted", "refused")}
            return {
                "cases": counter.total(),
                **totals,
                "failed": sum(failed.values()),
                "failures": failed,
            }

        everything = sum(self.counts.values(), collections.Counter())
        return {
            "seed": self.seed,
            **of(everything),
            "kinds": {name: of(self.counts[name]) for name in KINDS if name in self.counts},
            "failed_at": sorted(self.groups.values(), key=lambda group: -group["count"]),
            "slowest_seconds": round(self.slowest[0], 2),
            "slowest": self.slowest[1],
            "seconds": round(seconds),
        }


def supervise(args: argparse.Namespace, results: Results, scratch: Path, worker: int) -> None:
    """Run one worker's cases, with a new process after each that dies."""
    start = worker
    while start < args.cases:
        folder = scratch / f"worker-{worker}"
        with tempfile.TemporaryFile(dir=scratch) as complaints:
            command = [
                sys.executable,
                __file__,
                "--worker",
                "--inputs",
                str(scratch / "inputs"),
                "--folder",
                str(folder),
            ]
            command += [
                "--start",
                str(start),
                "--step",
                str(args.workers),
                "--cases",
                str(args.cases),
                "--seed",
                str(args.seed),
            ]
            command += ["--replay", args.replay] if args.replay else []
            environment = _environment(folder)
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
            )
            begun, began = None, time.perf_counter()
            for line in process.stdout:
                message = json.loads(line)
                if begun is None:
                    begun, began = message, time.perf_counter()
                else:
                    results.add(begun, Outcome(*message[1:4]), message[4])
                    start, begun = begun[0] + args.workers, None
            process.stdout.close()
            status = process.wait()
            complaints.seek(0)
            said = complaints.read().decode(errors="replace")[-20_000:]
        if begun is None and status:
            raise RuntimeError(f"a worker could not go on (status {status}):\n{said}")
        if begun is not None:
            kind_of_death = "hang" if "Timeout (" in said else f"died with status {status}"
            results.add(begun, Outcome(kind_of_death, "", said), time.perf_counter() - began)
            start = begun[0] + args.workers
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=12_000, help="how many mutated files to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--failures", type=Path, help="a folder to keep failures in")
    parser.add_argument(
        "--output", type=Path, help="where to write the counts, which are printed too"
    )
    parser.add_argument(
        "--replay", help="a file of --failures: read that one again and print what comes of it"
    )
    # How the script calls itself
    for name in ("--worker", "--inputs", "--folder", "--start", "--step"):
        options = (
            {"action": "store_true"}
            if name == "--worker"
            else {"type": int}
            if name in ("--start", "--step")
            else {}
        )
        parser.add_argument(name, help=argparse.SUPPRESS, **options)
    args = parser.parse_args(argv)
    if args.worker:
        work(args)
        return 0

    began = time.perf_counter()
    if args.replay:
        args.cases = args.workers = 1
        args.replay = os.path.abspath(args.replay)
        args.seed = json.loads(Path(args.replay).read_text())["seed"]
    results = Results(args.seed, args.failures)
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as scratch,
        ThreadPoolExecutor(args.workers) as threads,
    ):
        make_inputs(Path(scratch) / "inputs")
        for ended in [
            threads.submit(supervise, args, results, Path(scratch), worker)
            for worker in range(args.workers)
        ]:
            ended.result()
    if args.replay:
        print(f"{results.last.type} {results.last.site}\n{results.last.detail}")
    else:
        summary = json.dumps(results.summary(time.perf_counter() - began), indent=2)
        print(summary)
        if args.output:
            args.output.write_text(summary + "\n")
    return int(bool(results.groups))


if __name__ == "__main__":
    sys.exit(main())
