"""What the three scripts share: options, one-line errors, what they say about data."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from ..data import gold, readers, splits
from ..data.batches import Encoded
from ..data.labels import assumption
from ..data.splits import Split
from ..errors import InputError, require
from ..runtime import compilation_cache, output, processes, sharding
from ..runtime.files import is_full_disk, read_run, user_path
from ..runtime.text import printable, shortened
from .options import CommonOptions, names_with, parse

COLUMN_OPTIONS = names_with(CommonOptions, "is_column")

# "PyTorch was not found": it is not wanted
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def script(
    work: Callable[[Any], None],
    options_type: type,
    description: str,
    argv: Sequence[str] | None,
    dataset_defaults: dict[str, dict[str, Any]] | None = None,
    together: Callable[[Any], bool] = lambda options: False,
) -> int:
    """Run `work` with the options given on the command line; return the exit status.

    Every process of a job does so.

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
            # A process that exits early is reported as failed by the others.
            sharding.barrier("done")
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
    """Run a script's work and return its exit status; a failure is one line on stderr.

    The status is 2 for what the user can correct, 130 for Ctrl-C, 143 for SIGTERM. Signal handlers
    are those of before when it returns.
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


def load_split(
    dataset: str,
    split: str,
    columns: readers.Columns,
    max_examples: int | None = None,
    hold_out_seed: int | None = None,
) -> Split:
    """Load a split as `data.load_split`; says in one line how many bad rows were left out."""
    loaded = splits.load_split(dataset, split, columns, max_examples, hold_out_seed)
    if loaded.num_skipped:
        say(
            f"warning: {loaded.source}: {loaded.num_skipped} rows with more or fewer fields than"
            " the header are left out"
        )
    return loaded


def with_gold_labels(
    split: Split, id2label: dict[int, str], problem_type: str = gold.SINGLE_LABEL
) -> Split:
    """Return the examples that have a gold label; says in one line how many have none."""
    labelled = gold.with_gold(split, id2label, problem_type)
    if len(labelled) < len(split):
        say(
            f"{split.source}: {len(split) - len(labelled)} of {len(split)} examples have no gold"
            " label and are left out"
        )
    return labelled


def say_assumptions(splits: Iterable[Split], id2label: dict[int, str]) -> None:
    """Say once for all splits what is assumed about labels.

    Something is assumed where only the data or only the model names the classes.
    """
    sources: dict[str | None, str] = {}
    for split in splits:
        sources.setdefault(assumption(split, id2label), split.source)
    for note, source in sources.items():
        if note is not None:
            say(f"{source}: {note}")


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What the `run.json` beside a checkpoint says of the data that it was trained on."""

    dataset: str | None
    column_options: dict[str, Any]  # those that say what the columns are
    max_seq_length: int | None
    hold_out_seed: int | None  # by which its file was divided

    @classmethod
    def read(cls, checkpoint: str) -> TrainedOn:
        """Read what there is to a checkpoint; None and {} where nothing is.

        Raises:
          InputError: a value is not what it must be.
        """
        run = read_run(Path(checkpoint))
        before = run.get("options", {})
        max_seq_length = before.get("max_seq_length", run.get("max_seq_length"))
        columns = {name: before[name] for name in COLUMN_OPTIONS if name in before}
        seed = run.get("hold_out_seed")
        names = [value for name, value in columns.items() if name != "skip_bad_rows"]
        are_right = all(
            value is None or isinstance(value, str) for value in (run.get("dataset_path"), *names)
        )
        are_right &= type(columns.get("skip_bad_rows", False)) is bool
        are_right &= seed is None or type(seed) is int
        are_right &= max_seq_length is None or (type(max_seq_length) is int and max_seq_length > 2)
        require(
            are_right,
            f"{checkpoint}: its run.json is damaged: delete it, and name a data set with --dataset",
        )
        return cls(run.get("dataset_path"), columns, max_seq_length, seed)

    def is_of(self, dataset: str) -> bool:
        """Return whether a data set is the one that was trained on."""
        return self.dataset is not None and splits.absolute_name(dataset) == self.dataset

    def take_over(self, options: Any) -> Any:
        """Return options with the columns of training, where they name none themselves."""
        taken = {
            name: value
            for name, value in self.column_options.items()
            if value and not getattr(options, name)
        }
        return dataclasses.replace(options, **taken)

    def columns(self, options: Any) -> readers.Columns:
        """Return the columns of the data set of these options.

        Those of training hold for the same data set; of another they are taken where it has them.
        """
        if self.is_of(options.dataset):
            return self.take_over(options).columns
        names = ("text_column", "text_pair_column", "label_column")
        remembered = tuple(self.column_options.get(name) for name in names)
        return dataclasses.replace(options.columns, remembered=remembered)


def check_checkpoint(options: Any) -> None:
    """Raise an InputError that names the runs there are if --checkpoint was left out."""
    (default,) = (f.default for f in dataclasses.fields(options) if f.name == "checkpoint")
    if options.checkpoint != default or user_path(default).exists():
        return
    runs = sorted(str(file.parent) for file in Path("runs").glob("*/config.json"))
    there = f": there {'is' if len(runs) == 1 else 'are'} {shortened(', '.join(runs))}"
    raise InputError(
        f"name a model with --checkpoint{there if runs else ', such as an output of train.py'}"
    )


def command_of(script: str, options: Any) -> str:
    """Return the command line that options stand for, without what is of this machine alone."""
    words = ["python", script]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        is_local = field.metadata.get("starts_run") or field.name in ("output_dir", "push_to_hub")
        if is_local or value == field.default or value in (None, [], False):
            continue
        if isinstance(value, str) and user_path(value).exists():
            value = user_path(value).name  # of a path only the name
        words += [f"--{field.name}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def say(message: str) -> None:
    """Print a message that is not a result on stderr, from the first process alone.

    What would control the terminal is escaped.
    """
    if sharding.is_main():
        print(printable(message), file=sys.stderr)


def warn_truncated(encoded: Encoded, source: str) -> None:
    """Say on stderr, in one line, how much of too long texts was cut."""
    if encoded.truncation:
        say(f"warning: {source}: {encoded.truncation}")
