"""Compiled programs are kept between processes, whatever a crash left of the cache."""

import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import GOLDEN

import attattr_jax as aa
from attattr_jax.runtime import compilation_cache

# Programs by number; between runs JAX forgets what it has compiled, as if each were a process of
# its own.
PROGRAM = """
import json, os, warnings
from pathlib import Path
import jax, jax.numpy as jnp
from attattr_jax.runtime import compilation_cache

jnp.ones(3) * 2  # programs may have been compiled before
compilation_cache.keep_programs()
folder = Path(jax.config.jax_compilation_cache_dir)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))

def run(*numbers):
    jax.clear_caches()
    events.clear()
    compilation_cache.mend(folder)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in numbers:
            jax.jit(lambda x: x * number)(1.5)
    return [events.count("cache_misses"), events.count("cache_hits"), len(warned)]

found = [run(1, 2), run(1, 2)]
next(folder.glob("*-atime")).unlink()
found += [run(3), run(1, 2, 3)]
for file in folder.glob("*-cache"):
    os.truncate(file, file.stat().st_size // 2)
found += [run(1, 2, 3), run(1, 2, 3)]
next(folder.glob("*-cache")).unlink()
found += [run(1, 2, 3), run(1, 2, 3)]
print(json.dumps(found))
"""


def test_a_damaged_cache_is_mended(tmp_path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
    }
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    compiled, taken, without_time, then, cut_short, again, without_program, last = json.loads(
        done.stdout
    )
    assert (compiled, taken) == ([2, 0, 0], [0, 2, 0]), "[written, read, warnings]"
    assert (without_time, then) == ([1, 0, 0], [0, 3, 0])
    assert (cut_short, again) == ([3, 0, 0], [0, 3, 0])
    assert (without_program, last) == ([1, 2, 0], [0, 3, 0])


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """JAX's settings, which are put back, with nothing set yet: a function that returns folder,
    bound and threshold.
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in ("jax_enable_compilation_cache", *names)}
    for name, value in zip(before, (True, None, -1, 1.0), strict=True):
        jax.config.update(name, value)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.keep_programs.cache_clear()
    yield lambda: tuple(getattr(jax.config, name) for name in names)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.keep_programs.cache_clear()


OURS = (2 * 2**30, 0.3)


def test_loading_a_classifier_keeps_programs(settings, tmp_path, golden_batch, golden_model):
    aa.forward(golden_model.params, golden_batch, golden_model.config)
    assert settings() == (None, -1, 1.0), "a pure function sets nothing"
    aa.load_classifier(GOLDEN)
    assert settings() == (str(tmp_path / "attattr-jax"), *OURS)


@pytest.mark.parametrize(("in_script", "expected"), [(True, OURS), (False, (-1, 1.0))])
def test_a_folder_that_is_configured_stays(settings, tmp_path, in_script, expected):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "moved"))
    compilation_cache.keep_programs(in_script)
    assert settings() == (str(tmp_path / "moved"), *expected)
    assert not (tmp_path / "attattr-jax").exists()


def test_bounds_of_the_environment_stay(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    compilation_cache.keep_programs(in_script=True)
    assert settings() == (str(tmp_path / "attattr-jax"), -1, 0.3)


def test_a_cache_that_is_off_stays_off(settings, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.keep_programs(in_script=True)
    assert settings() == (None, -1, 1.0) and not list(tmp_path.iterdir())
