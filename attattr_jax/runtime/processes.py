"""The processes of a run: how several find one another, and what Ctrl-C and SIGTERM do.

A scheduler that wants its machine back sends SIGTERM and some seconds later SIGKILL. Where there is
something to save, a script works within `preemption`, and is told; anywhere else SIGTERM ends it at
once with one line, which loses nothing.

The signal handlers raise. Python discards what is raised within callbacks of the garbage collector
and of weak references and within `__del__`, and JAX has such callbacks; so the handlers also note
the signal, and `check_interrupted` raises again what was discarded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from ..errors import InputError, root_cause

SIGTERM_STATUS = 128 + signal.SIGTERM
LEAVING_SECONDS = 5  # for the others to save, and to say what is wrong
_signal: int | None = (
    None  # that came to this run and ends it, whatever has become of the exception
)


class Terminated(BaseException):
    """SIGTERM came. Says what was saved."""


@contextlib.contextmanager
def signals_handled() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt and SIGTERM raises `Terminated`.

    Both are noted; the handlers of before are restored at the end. Outside the main thread, where
    Python sets no handlers, this does nothing.
    """
    global _signal
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _signal, unraisable = None, sys.unraisablehook

    def quiet(discarded: Any) -> None:
        # `check_interrupted` raises these again
        if not isinstance(discarded.exc_value, KeyboardInterrupt | Terminated):
            unraisable(discarded)

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job ignores it
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = quiet
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _signal = None


def _interrupt(number: int, frame: Any) -> None:
    global _signal
    _signal = number
    check_interrupted()


def check_interrupted() -> None:
    """Raise what a signal handler has raised and something has discarded.

    Called at every batch and every step of a progress bar.

    Raises:
      KeyboardInterrupt, Terminated: that signal came within `signals_handled`.
    """
    if _signal == signal.SIGINT:
        raise KeyboardInterrupt
    if _signal == signal.SIGTERM:
        raise Terminated("terminated by SIGTERM: the same command with --resume goes on")


def initialize(
    distributed: bool = False,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    together: bool = False,
) -> None:
    """Join the other processes of a run, if there are any.

    To be called before anything else asks JAX for a device.

    Args:
      distributed: whether to join; what is not given is found by JAX itself under Slurm, Kubernetes
        and on Cloud TPU.
      coordinator_address, num_processes, process_id: all of them, to join without such a scheduler.
      together: whether all processes have to stop at the same step when one of them gets SIGTERM:
        JAX tells them, then.

    Raises:
      InputError: only some are given, one is out of range, or no cluster is found.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given) and not distributed:
        return
    if 0 < len(missing) < len(given):
        raise InputError(
            f"{' and '.join(missing)} is missing: give all of"
            f" {', '.join(f'--{name}' for name in given)}, or only --distributed"
        )
    if not missing:
        host, _, port = coordinator_address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(
                "--coordinator_address must be HOST:PORT of process 0, as in node1:12345, not"
                f" {coordinator_address!r}"
            )
        if not 0 <= process_id < num_processes:
            raise InputError(
                f"--process_id must be from 0 to below --num_processes {num_processes}, not"
                f" {process_id}"
            )
    jax.config.update("jax_enable_preemption_service", together)
    try:
        jax.distributed.initialize(**({} if missing else given))
    except (
        Exception
    ) as error:  # ValueError where nothing is found; the runtime has errors of its own
        explicit = ", ".join(f"--{name}" for name in given)
        if missing:
            raise InputError(
                f"--distributed: no cluster that JAX knows is found here ({root_cause(error)}):"
                f" give {explicit}"
            ) from None
        raise InputError(
            f"process {process_id} cannot join the others at {coordinator_address}:"
            f" {root_cause(error)}"
        ) from None
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - results are printed once
    if not together or jax.process_count() == 1:
        _handle_sigterm(_interrupt)  # JAX has put its own in place


def leave(status: int) -> int:
    """Return the exit status.

    Of several processes, one that failed exits here: it does not wait for the others.
    """
    if status and jax.distributed.is_initialized():
        # When it ends, JAX ends the others: what stopped it has most often stopped them as well
        if jax.process_index() == 0:
            time.sleep(LEAVING_SECONDS)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(status)
    return status


def _handle_sigterm(handler: Callable) -> Callable | int | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def preemption(together: bool) -> Iterator[Callable[[int], bool]]:
    """Within, SIGTERM does not end the process by itself.

    Yields step -> whether to save and stop after that step.

    Args:
      together: all processes stop at the same step, whichever of them gets the signal; each has to
        ask at every step.
    """
    if together and jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    came, is_done = threading.Event(), False
    previous = _handle_sigterm(lambda *_: came.set())
    try:
        yield lambda step: came.is_set()
        is_done = True
    finally:
        if previous is not None:
            _handle_sigterm(previous)
            if came.is_set() and is_done:  # after the last step that asked
                signal.raise_signal(signal.SIGTERM)
