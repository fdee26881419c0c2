"""Starts the commands, so that Ctrl-C and SIGTERM are one line also in the seconds in which the
libraries are imported.

A module beside the package, because importing any module of the package imports JAX.
"""

import contextlib
import importlib
import os
import signal
import sys


def _leave(number, frame):
    """End at once: there is nothing to save yet, and an exception may be lost in whatever is being
    imported.
    """
    os.write(
        2, b"error: interrupted\n" if number == signal.SIGINT else b"error: terminated by SIGTERM\n"
    )
    os._exit(128 + number)


def _start(command):
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell's background job ignores Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    status = importlib.import_module(f"attattr_jax.commands.{command}").main()
    if status:  # XLA's and Orbax's threads may be at work still, and crash when Python takes down what they use
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it is closed
                stream.flush()
        os._exit(status)
    return status


def train():
    """Run `attattr-train`; returns the exit status."""
    return _start("train")


def attribute():
    """Run `attattr-attribute`; returns the exit status."""
    return _start("attribute")


def prune():
    """Run `attattr-prune`; returns the exit status."""
    return _start("prune")


def correlate():
    """Run `attattr-correlate`; returns the exit status."""
    return _start("correlate")
