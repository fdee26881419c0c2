"""Starts the commands.

Ctrl-C and SIGTERM are one line also in the seconds in which the libraries are imported, and
`--help` answers without importing them. A module beside the package, because importing a command
imports JAX.
"""

import contextlib
import importlib
import os
import signal
import sys


def _leave(number, frame):
    """End at once: nothing is to be saved yet, and an import may swallow an exception."""
    os.write(
        2, b"error: interrupted\n" if number == signal.SIGINT else b"error: terminated by SIGTERM\n"
    )
    os._exit(128 + number)


def _help(command):
    """Print the help that the command line asks for, and exit; return if it has a mistake."""
    from attattr_jax.commands import options
    from attattr_jax.errors import InputError

    with contextlib.suppress(InputError):  # the command says what is wrong
        if command == "correlate":
            importlib.import_module("attattr_jax.commands.correlate").parse(None)
        else:
            module = importlib.import_module(f"attattr_jax.commands.{command}_options")
            defaults = getattr(module, "DATASET_DEFAULTS", None)
            options.parse(module.Options, module.__doc__, None, defaults)


def _start(command):
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell's background job ignores Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    if {"-h", "--help"} & set(sys.argv[1:]):
        _help(command)
    status = importlib.import_module(f"attattr_jax.commands.{command}").main()
    # XLA's and Orbax's threads may be at work still, and crash when Python takes down what they
    # use.
    if status:
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
