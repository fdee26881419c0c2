"""What the three scripts share: options, one-line errors, the progress bar."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from ..attribution.quadrature import quadrature
from ..data import readers, splits
from ..data.batches import Encoded
from ..data.labels import assumption
from ..data.splits import Split
from ..errors import InputError, require
from ..runtime import compilation_cache, output, processes, sharding
from ..runtime.files import is_full_disk, is_utf8
from ..runtime.text import printable

# "PyTorch was not found": it is not wanted
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field that `HfArgumentParser` turns into an option."""
    metadata = {"help": help.replace("%", "%%"), **more}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


COLUMN_OPTIONS = (
    "text_column",
    "text_pair_column",
    "label_column",
    "column_names",
    "skip_bad_rows",
)


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """Options of every script."""

    seed: int = option(0, "0 to 4294967295; same seed, same kind of machine: same numbers")
    text_column: str | None = option(
        None, "column of the text, where it is not one of the usual names"
    )
    text_pair_column: str | None = option(None, "column of the second text, for sentence pairs")
    label_column: str | None = option(None, "column of the label")
    column_names: str | None = option(
        None,
        "names of all columns, as in id,label,sentence, of a .tsv or .csv file that has no header",
    )
    skip_bad_rows: bool = option(
        False, "leave out rows with more or fewer fields than the header, and count them"
    )
    overwrite: bool = option(
        False, "start anew in an output folder that already holds results of this script"
    )
    resume: bool = option(
        False,
        "go on with the run in the output folder, as if it had not stopped; start it if there is"
        " none yet",
    )
    shard_params: bool = option(
        False,
        "divide the model's parameters over the devices (FSDP), for models that do not fit on each",
    )
    distributed: bool = option(
        False,
        "join the other processes of a job; Slurm, Kubernetes and Cloud TPU are found by JAX"
        " itself",
    )
    coordinator_address: str | None = option(
        None, "elsewhere: HOST:PORT of process 0, with the next two; implies --distributed"
    )
    num_processes: int | None = option(None, "how many processes the job has")
    process_id: int | None = option(None, "which of them this is, from 0")

    @property
    def columns(self) -> readers.Columns:
        """What was said about the columns of the data."""
        names = (
            None
            if self.column_names is None
            else tuple(part.strip() for part in self.column_names.split(","))
        )
        require(
            names is None or all(names),
            f"--column_names {self.column_names!r}: one of the names is empty",
        )
        return readers.Columns(
            self.text_column, self.text_pair_column, self.label_column, names, self.skip_bad_rows
        )


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description as it is written, and names only defaults that are something."""

    def _get_help_string(self, action):
        if (
            action.default in (None, [], argparse.SUPPRESS)
            or "%(default)" in action.help
            or action.dest == "help"
        ):
            return action.help
        return super()._get_help_string(action)


class OneLineErrors:
    """Mixed into an `argparse.ArgumentParser`: bad use is an InputError, not the usage and an
    exit.
    """

    def error(self, message):
        """Raise instead of exiting."""
        hint = (
            "; a value that begins with - is written --option=value"
            if "expected one argument" in message
            else ""
        )
        raise InputError(message + hint)


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

    class Parser(OneLineErrors, HfArgumentParser):
        pass

    parser = Parser(
        options_type, description=description, formatter_class=_Formatter, allow_abbrev=False
    )
    for (
        action
    ) in parser._actions:  # HfArgumentParser knows no repeatable option: those of type list are
        if isinstance(action.default, list):
            action.__class__, action.nargs = argparse._AppendAction, None
    if dataset_defaults:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--dataset")
        with contextlib.suppress(argparse.ArgumentError):
            parser.set_defaults(**dataset_defaults.get(first.parse_known_args(argv)[0].dataset, {}))
    options = options_type(**vars(parser.parse_args(argv)))
    encoding = sys.getfilesystemencoding()
    problem = (
        "is not UTF-8: write it in UTF-8"
        if encoding == "utf-8"
        else f"cannot be read, because Python's encoding here is {encoding}: set PYTHONUTF8=1"
    )
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        require(value != "", f"--{field.name} is empty: give a value or leave it out")
        for number, text in enumerate(value if isinstance(value, list) else [value], 1):
            which = f" number {number}" if isinstance(value, list) else f" {value!r}"
            # What reads tokenizers and writes checkpoints takes no other names.
            require(not isinstance(text, str) or is_utf8(text), f"--{field.name}{which} {problem}")
    require(0 <= options.seed < 2**32, f"--seed must be from 0 to 4294967295, not {options.seed}")
    return options


def script(
    work: Callable[[Any], None],
    options_type: type,
    description: str,
    argv: Sequence[str] | None,
    dataset_defaults: dict[str, dict[str, Any]] | None = None,
    together: Callable[[Any], bool] = lambda options: False,
) -> int:
    """Run `work` with the options given on the command line, in each process of the job; returns
    the exit status.

    Args:
      work: options -> None.
      options_type, description, argv, dataset_defaults: as for `parse`.
      together: options -> whether all processes stop together, as for `processes.initialize`.
    """

    def main() -> None:
        options = parse(options_type, description, argv, dataset_defaults)
        join = (
            options.distributed,
            options.coordinator_address,
            options.num_processes,
            options.process_id,
        )
        processes.initialize(*join, together(options))
        try:
            try:
                work(options)
            except BrokenPipeError:  # all is written, and the others wait
                sharding.barrier("done")
                raise
            sharding.barrier("done")  # who leaves earlier would be taken for dead by the others
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                str(interrupt) or "interrupted: the same command with --resume goes on"
            ) from None
        finally:
            output.release_locks()

    try:
        return processes.leave(run(main))
    except (
        BaseException
    ):  # a bug, or another process of the job is gone, which each library says in its own way
        if jax.distributed.is_initialized():
            traceback.print_exc()
            processes.leave(
                _complain(
                    "the processes cannot go on; has one of them ended? Start all of them again,"
                    " with --resume",
                    1,
                )
            )
        raise


def run(main: Callable[[], None]) -> int:
    """Run a script's work and return its exit status, with one line: 2 for what the user can mend,
    130 for Ctrl-C, 143 for SIGTERM.

    Signal handlers are those of before when it returns.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows its escape
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with processes.signals_handled():
            try:
                compilation_cache.keep_programs(in_script=True)
                main()
                if sys.stdout is not None:  # None: closed by the caller
                    sys.stdout.flush()
            except Exception:  # what a library makes of the signal that interrupted it
                processes.check_interrupted()
                raise
    except InputError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _complain(str(interrupt) or "interrupted", 130)
    except processes.Terminated as end:
        return _complain(str(end), processes.SIGTERM_STATUS)
    except BrokenPipeError:  # the reader of stdout, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        return _complain(f"{error.filename or 'output'}: {error.strerror}", 2)
    except Exception as error:
        if not is_full_disk(error):
            raise
        return _complain(f"output: {error}", 2)  # as the tokenizer library says it
    return 0


def _complain(message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    print(
        f"error: {line if len(line) <= 1500 else line[:1500] + ' …'}", file=sys.stderr, flush=True
    )
    return status


@contextlib.contextmanager
def progress(total: int, unit: str, description: str) -> Iterator[Any]:
    """Show a progress bar on stderr for work over a second, with rate and time left; every ten
    seconds where that is a file.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        def update(self, n=1):
            processes.check_interrupted()
            return super().update(n)

    interval = 0.2 if sys.stderr.isatty() else 10
    with contextlib.ExitStack() as stack:
        file = sys.stderr if sharding.is_main() else stack.enter_context(open(os.devnull, "w"))
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


def print_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows in columns: the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(indent + "  ".join(cells).rstrip())


def named(option_name: str, check: Callable[[], Any]) -> Any:
    """Run a check and put the option's name before its complaint."""
    try:
        return check()
    except InputError as error:
        raise InputError(f"{option_name}: {error}") from None


def checked_n_steps(n_steps: str, method: str, option_name: str = "--n_steps") -> int | str:
    """Return the value of a number of steps: "auto", or a number that the rule allows."""
    if n_steps == "auto":
        return n_steps
    digits = n_steps.removeprefix("-")
    require(
        digits.isascii() and digits.isdigit() and len(digits) < 20,
        f"{option_name} must be an integer or auto, not {n_steps!r}",
    )
    named(option_name, lambda: quadrature(method, int(n_steps)))
    return int(n_steps)


def check_applies(options: Any, rules: Sequence[tuple[str, bool, str]]) -> None:
    """Refuse options that were given and have no effect.

    Args:
      options: the dataclass of all options.
      rules: (name of an option, whether it has an effect, when it has none: "without --dataset").
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name, applies, when in rules:
        is_given = getattr(options, name) not in (defaults[name], [])
        require(applies or not is_given, f"--{name} has no effect {when}: leave it out")


def load_split(
    dataset: str, split: str, columns: readers.Columns, max_examples: int | None = None
) -> Split:
    """Load a split as `data.load_split`; says in one line how many bad rows were left out."""
    loaded = splits.load_split(dataset, split, columns, max_examples)
    if loaded.num_skipped:
        say(
            f"warning: {loaded.source}: {loaded.num_skipped} rows with more or fewer fields than"
            " the header are left out"
        )
    return loaded


def with_gold_labels(split: Split, id2label: dict[int, str]) -> Split:
    """Return the examples that have a gold label; says in one line how many have none."""
    labelled = split.with_gold_labels(id2label)
    if len(labelled) < len(split):
        say(
            f"{split.source}: {len(split) - len(labelled)} of {len(split)} examples have no gold"
            " label and are left out"
        )
    return labelled


def say_assumptions(splits: Iterable[Split], id2label: dict[int, str]) -> None:
    """Say, once for all splits, what is assumed about labels where only data or model names the
    classes.
    """
    sources: dict[str | None, str] = {}
    for split in splits:
        sources.setdefault(assumption(split, id2label), split.source)
    for note, source in sources.items():
        if note is not None:
            say(f"{source}: {note}")


def listed(value: str | None, option_name: str, allowed: Sequence[str]) -> list[str]:
    """Return the names of a list separated by commas, each once; None is none."""
    names = (
        list(dict.fromkeys(part.strip() for part in value.split(","))) if value is not None else []
    )
    unknown = [name for name in names if name not in allowed]
    require(
        not unknown,
        f"{option_name}: {', '.join(map(repr, unknown))} is none of {', '.join(allowed)}",
    )
    return names


def say(message: str) -> None:
    """Say on stderr what is not a result; of several processes, one says it. What would control the
    terminal is escaped.
    """
    if sharding.is_main():
        print(printable(message), file=sys.stderr)


def warn_truncated(encoded: Encoded, source: str) -> None:
    """Say on stderr, in one line, how much of too long texts was cut."""
    if encoded.truncation:
        say(f"warning: {source}: {encoded.truncation}")
