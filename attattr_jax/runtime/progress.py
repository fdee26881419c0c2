"""The progress bar of scripts and of long calls, which also says when a program is compiled."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from . import processes, sharding


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import libraries of Hugging Face without what they print.

    That is that PyTorch, which is not wanted, was not found, and in a notebook that widgets are
    missing, which no bar here needs.
    """
    from tqdm import TqdmWarning

    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    was_set = name in os.environ
    os.environ.setdefault(name, "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)
            yield
    finally:
        if not was_set:
            del os.environ[name]


def in_notebook() -> bool:
    """Return whether this is a notebook's kernel; a terminal of IPython is none."""
    try:
        return get_ipython().has_trait("kernel")  # type: ignore[name-defined]
    except NameError:
        return False


@contextlib.contextmanager
def progress(total: int, unit: str, description: str, in_script: bool = True) -> Iterator[Any]:
    """Show a progress bar on stderr, with rate and time left, for work over a second.

    Where stderr is a file, a line is written every ten seconds by scripts, and none elsewhere.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        def update(self, n=1):
            processes.check_interrupted()
            return super().update(n)

    is_watched = sys.stderr.isatty() or in_notebook()
    interval = 0.2 if is_watched else 10
    with contextlib.ExitStack() as stack:
        is_shown = sharding.is_main() and (in_script or is_watched)
        file = sys.stderr if is_shown else stack.enter_context(open(os.devnull, "w"))
        bar = stack.enter_context(
            Bar(
                total=total,
                unit=f" {unit}",
                desc=description,
                delay=1,
                mininterval=interval,
                file=file,
            )
        )
        stack.enter_context(_compiling_shown(bar))
        yield bar


@contextlib.contextmanager
def _compiling_shown(bar: Any) -> Iterator[None]:
    """Show in a progress bar when XLA compiles for over a second."""
    timers: list[threading.Timer] = []

    def announce() -> None:
        bar.delay = 0  # shown from here on: tqdm else ends it without a new line
        bar.set_description(f"{description} (compiling)")

    def show(event: str, duration: float, **_) -> None:
        # Lowered: compilation comes next
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            timers.append(threading.Timer(1.0, announce))
            timers[-1].daemon = True
            timers[-1].start()
        elif event == "/jax/core/compile/backend_compile_duration":
            stop()

    def stop() -> None:
        while timers:
            timers.pop().cancel()
        bar.set_description(description, refresh=False)

    description = bar.desc.removesuffix(": ")
    jax.monitoring.register_event_duration_secs_listener(show)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(show)
        stop()
