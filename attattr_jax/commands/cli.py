"""What the three scripts share: options, one-line errors, the progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from ..data import readers, splits
from ..data.batches import Encoded
from ..data.labels import assumption
from ..data.splits import Split
from ..errors import InputError
from ..runtime import compilation_cache, output, processes, sharding
from ..runtime.files import is_full_disk
from ..runtime.text import printable
from .options import parse

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


@contextlib.contextmanager
def progress(total: int, unit: str, description: str) -> Iterator[Any]:
    """Show a progress bar on stderr, with rate and time left, for work over a second.

    Where stderr is a file, a line is written every ten seconds.
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
    """Say once for all splits what is assumed about labels.

    Something is assumed where only the data or only the model names the classes.
    """
    sources: dict[str | None, str] = {}
    for split in splits:
        sources.setdefault(assumption(split, id2label), split.source)
    for note, source in sources.items():
        if note is not None:
            say(f"{source}: {note}")


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
