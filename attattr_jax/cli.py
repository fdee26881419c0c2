"""What the three scripts share: options, one-line errors, the progress bar, the output folder with its `run.json`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import write_json

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not wanted


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field that `HfArgumentParser` turns into an option."""
    metadata = {"help": help.replace("%", "%%"), **more}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """Options of every script."""

    seed: int = option(0, "same seed, same kind of machine: same numbers")
    text_column: str | None = option(None, "column of the text, where it is not one of the usual names")
    text_pair_column: str | None = option(None, "column of the second text, for sentence pairs")
    label_column: str | None = option(None, "column of the label")
    overwrite: bool = option(False, "start anew in an output folder that already holds results of this script")


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description as it is written, and names only defaults that are something."""

    def _get_help_string(self, action):
        if action.default in (None, [], argparse.SUPPRESS) or "%(default)" in action.help or action.dest == "help":
            return action.help
        return super()._get_help_string(action)


def parse(
    options_type: type,
    description: str,
    argv: Sequence[str] | None,
    dataset_defaults: dict[str, dict[str, Any]] | None = None,
) -> Any:
    """Return the options given on the command line, underscores and dashes alike.

    Args:
      options_type: a frozen dataclass.
      description: shown by `--help`.
      argv: the arguments, by default those of the process.
      dataset_defaults: other defaults for some data sets: {dataset: {option: value}}.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message):
            raise InputError(message)

    parser = Parser(options_type, description=description, formatter_class=_Formatter, allow_abbrev=False)
    for action in parser._actions:  # HfArgumentParser knows no repeatable option: those of type list are
        if isinstance(action.default, list):
            action.__class__, action.nargs = argparse._AppendAction, None
    if dataset_defaults:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--dataset")
        with contextlib.suppress(argparse.ArgumentError):
            parser.set_defaults(**dataset_defaults.get(first.parse_known_args(argv)[0].dataset, {}))
    return options_type(**vars(parser.parse_args(argv)))


def run(main: Callable[[], None], when_interrupted: str = "interrupted") -> int:
    """Run a script's work and return its exit status: 2 and one line for what the user can mend, 130 and one line for Ctrl-C."""
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain(when_interrupted, 130)
    except BrokenPipeError:  # the reader of stdout, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        return _complain(f"{error.filename or 'output'}: {error.strerror}", 2)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return status


def require(condition: bool, message: str) -> None:
    """Raise an InputError unless the condition holds."""
    if not condition:
        raise InputError(message)


def printable(text: str) -> str:
    """Return text for a terminal: characters that would control it, or reorder what is shown, are written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@contextlib.contextmanager
def progress(total: int, unit: str, description: str = "", initial: int = 0) -> Iterator[Any]:
    """Show a progress bar on stderr for work over a second, with rate and time left; every ten seconds where that is a file."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10
    with tqdm(total=total, unit=f" {unit}", desc=description, initial=initial, delay=1, mininterval=interval, file=sys.stderr) as bar:
        yield bar


def print_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows in columns: the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print(indent + "  ".join(cells).rstrip())


class OutputFolder:
    """The output folder of one run, described by its `run.json`.

    Made in two steps, so that bad input leaves nothing behind: the constructor only looks, `start` writes.
    """

    def __init__(self, folder: str | os.PathLike, script: str, files: Sequence[str], overwrite: bool = False, resume: bool = False):
        """Check that a run may write here.

        Args:
          folder: where to write.
          script: "train", "attribute" or "prune".
          files: patterns of the files and folders that the script writes, and `--overwrite` deletes.
          overwrite: start anew.
          resume: go on with the run that is here.

        Raises:
          InputError: the folder holds results, or there is nothing to resume; names the option that helps.
        """
        self.path, self.script, self.files = Path(folder).expanduser(), script, tuple(files)
        self.run_file = self.path / "run.json"
        self.resume = resume
        self._start_time = time.perf_counter()
        require(not (overwrite and resume), "--overwrite and --resume: choose one")
        require(self.path.is_dir() or not self.path.exists(), f"--output_dir {self.path} is a file, not a folder")
        self.previous = read_run(self.path)
        other = self.previous.get("script") if self.previous else None
        require(other in (None, script), f"--output_dir {self.path} holds results of {other}.py: choose another folder for {script}.py")
        if resume:
            require(bool(self.previous), f"--resume: there is no run of {script}.py in {self.path}; leave --resume out to start one")
        elif not overwrite:
            present = bool(self.previous) or any(True for pattern in files for _ in self.path.glob(pattern))
            helps = "--resume goes on, --overwrite starts anew" if script == "train" else "--overwrite starts anew"
            require(not present, f"--output_dir {self.path} already holds results of {script}.py: {helps}")

    def start(self, options: Any, facts: dict[str, Any], may_change: Sequence[str] = ()) -> None:
        """Make the folder, delete what an overwritten run left, write `run.json`.

        Args:
          options: the dataclass of all options.
          facts: what else identifies the run: fingerprints, the device.
          may_change: options that a resumed run need not share with the first.

        Raises:
          InputError: a resumed run was started with other options, data or model; names the first.
        """
        import jax

        given = dataclasses.asdict(options)
        if self.resume:
            free = {"resume", "overwrite", "output_dir", *may_change}
            for name, value in {**given, **facts}.items():
                before = self.previous.get("options", {}).get(name, self.previous.get(name))
                if name not in free and before != value:
                    option_name = f"--{name}" if name in given else name
                    raise InputError(f"--resume: {option_name} is {value!r}, but the run in {self.path} was started with {before!r}")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            for pattern in (*self.files, "run.json"):
                for found in self.path.glob(pattern):
                    shutil.rmtree(found) if found.is_dir() else found.unlink()
        packages = ("attattr-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "numpy")
        devices = jax.local_devices()
        self.record = {
            "script": self.script,
            "finished": False,
            "options": given,
            **facts,
            "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in packages},
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._write()

    def finish(self, **results: Any) -> None:
        """Write results and wall time into `run.json`."""
        self.record |= {**results, "wall_seconds": round(time.perf_counter() - self._start_time, 3), "finished": True}
        self._write()

    def _write(self) -> None:
        write_json(self.run_file, self.record)


def read_run(folder: Path) -> dict[str, Any]:
    """Return the `run.json` of a folder, or {} where there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
