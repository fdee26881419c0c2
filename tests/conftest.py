"""Strict settings for every test, and a small classifier with a tokenizer to run the whole path
on.
"""

import dataclasses
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time of these tests is spent compiling small programs. What is compiled is kept
# between runs and shared with other workers and the processes that tests start; without a bound on
# its size the cache needs no lock.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), ".cache", "jax")
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = "-1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# And it is compiled without optimization, which saves half of the time.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import numpy as np
import pytest

# Two devices, so that whatever is wrong with sharded rows shows; no silent promotion of types or
# ranks.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from tiny_classifier import make_tiny

import attattr_jax as aa
from attattr_jax.explanations import parts
from attattr_jax.runtime import compilation_cache

GOLDEN = os.path.join(os.path.dirname(__file__), "golden", "bert")
WORDS = (
    "a the film movie story plot acting music script is was not never and but very good bad great"
    " dull bright slow warm cold sharp flat fine poor rich weak strong clever silly lovely"
    " dreary , ."
).split()
POSITIVE = "good great bright warm sharp fine rich strong clever lovely".split()
NEGATIVE = "bad dull slow cold flat poor weak silly dreary".split()


# The files that take longest, first: the workers then end at about the same time.
LONGEST = ("test_scripts.py", "test_processes.py", "test_adaptive.py", "test_explanations.py")


def pytest_configure(config):
    """Delete compiled programs that a killed process has left half written: JAX does not."""
    if not hasattr(config, "workerinput"):
        for program in Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob("*-cache"):
            if not compilation_cache.is_whole(program):
                program.unlink()


def pytest_collection_modifyitems(items):
    """Start with the longest files."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep the cache of `datasets` out of the home folder."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


# Linux allows a process 65,530 memory mappings; every compiled program holds some.
MAPPINGS = Path("/proc/self/maps")
MAX_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def _drop_programs_of_module():
    """Free what a module compiled: a process that runs out of memory mappings crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _drop_programs_of_long_module():
    """Free compiled programs within a module that compiles more than a process can hold."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MAX_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def standard_promotion():
    """Standard promotion for a module that runs optax's Adam, which does not pass under the strict
    rules.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def golden():
    """Arrays computed in float64 by a separate implementation; see tests/golden/."""
    with np.load(os.path.join(GOLDEN, "expected.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_model():
    """The three-layer random model of the golden arrays."""
    return aa.load_classifier(GOLDEN)


@pytest.fixture(scope="session")
def golden_batch(golden):
    """Its inputs, with padding and two segments."""
    names = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
    return {name: golden[name].astype(np.int32) for name in names}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Such a classifier in Hugging Face format."""
    folder = tmp_path_factory.mktemp("tiny")
    aa.save_classifier(make_tiny(WORDS), folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The same, loaded."""
    return aa.load_classifier(tiny_folder)


@pytest.fixture(scope="session")
def regression_folder(tiny, tmp_path_factory):
    """A model with one output, a number, as for STS-B."""
    folder = tmp_path_factory.mktemp("regression")
    config = dataclasses.replace(tiny.config, num_labels=1, problem_type="regression")
    aa.save_classifier(
        aa.Classifier(
            config, aa.init_params(config, jax.random.key(1)), tiny.tokenizer, {0: "stars"}
        ),
        folder,
    )
    return folder


def write_reviews(file, count, seed):
    """Write `count` labelled sentences over the tiny vocabulary."""
    random = np.random.default_rng(seed)
    lines = ["sentence\tlabel"]
    for _ in range(count):
        positive = int(random.integers(2))
        noun, joiner = (
            random.choice(["film", "movie", "story", "plot"]),
            random.choice(["and", "but", ","]),
        )
        words = random.choice(POSITIVE if positive else NEGATIVE, 2)
        lines.append(f"the {noun} is {words[0]} {joiner} very {words[1]} .\t{positive}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory):
    """A local data set in GLUE's layout."""
    folder = tmp_path_factory.mktemp("films")
    write_reviews(folder / "train.tsv", 37, seed=1)
    write_reviews(folder / "dev.tsv", 15, seed=2)
    return folder


@pytest.fixture(scope="session")
def trained_folder(tiny_folder, reviews_folder, tmp_path_factory):
    """What `train.py` writes: five short epochs on the local data set."""
    from attattr_jax.commands.train import main

    folder = tmp_path_factory.mktemp("runs") / "films"
    arguments = (
        f"--model {tiny_folder} --dataset {reviews_folder} --output_dir {folder} --num_train_epochs"
        " 5 --train_batch_size 8 --learning_rate 5e-3 --logging_steps 3 --save_steps 4"
        " --max_seq_length 16"
    )
    with jax.numpy_dtype_promotion("standard"):
        assert main(arguments.split()) == 0
    return folder


def assemble(folder, num_examples, num_processes=1):
    """Put the parts of a run together as its processes do."""
    for process in reversed(range(num_processes)):
        listed = parts.put_in_order(folder, num_examples, process, num_processes)
    return parts.join(folder, num_examples, listed)


def read_jsonl(file):
    """Return the objects of a .jsonl file."""
    with open(file, encoding="utf-8") as lines:  # not splitlines(), which also splits at U+2028
        return [json.loads(line) for line in lines]
