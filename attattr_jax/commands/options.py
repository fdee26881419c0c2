"""Options of the scripts: how they are declared, read from a command line and checked.

A script's options are a frozen dataclass whose fields are made by `option`. Nothing here imports
JAX or another slow library, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..attribution.quadrature.rules import FAST_METHOD, quadrature
from ..data.readers import Columns
from ..errors import InputError, require
from ..runtime.files import is_utf8
from ..runtime.text import did_you_mean

# The headings of `--help`, in this order.
FIRST = "what people use first"
DATA = "data"
EXPLAIN = "what to explain, and how"
PRUNE = "which heads to prune"
TRAIN = "training"
SAVE = "what to save"
SHOW = "what to show"
RUN = "running and devices"
GROUPS = (FIRST, DATA, EXPLAIN, PRUNE, TRAIN, SAVE, SHOW, RUN)


def option(
    default: Any,
    help: str,
    group: str,
    *,
    starts_run: bool = False,
    is_view: bool = False,
    is_column: bool = False,
) -> Any:
    """Return a dataclass field that is an option.

    Args:
      default: its default; a list for an option that may be repeated.
      help: what `--help` says.
      group: one of `GROUPS`.
      starts_run: it says how a run is started, not what it computes: not compared by --resume.
      is_view: it says what is made of the results: a run may be resumed with another value.
      is_column: it says what the columns of the data are.
    """
    metadata = {
        "help": help,
        "group": group,
        "starts_run": starts_run,
        "is_view": is_view,
        "is_column": is_column,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def names_with(options: Any, mark: str) -> tuple[str, ...]:
    """Return the names of the options with a mark, e.g. "is_view"; `options` may be the class."""
    return tuple(field.name for field in dataclasses.fields(options) if field.metadata.get(mark))


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """Options of every script."""

    seed: int = option(
        0, "0 to 4294967295; same seed, same kind of machine: same numbers", group=RUN
    )
    revision: str | None = option(
        None, "of a model on the Hub: a branch, a tag or a commit (default: its main branch)", FIRST
    )
    text_column: str | None = option(
        None, "column of the text, where it is not one of the usual names", DATA, is_column=True
    )
    text_pair_column: str | None = option(
        None, "column of the second text, for sentence pairs", DATA, is_column=True
    )
    label_column: str | None = option(
        None,
        "column of the label; several of 0 and 1, separated by commas, are lists of labels",
        DATA,
        is_column=True,
    )
    column_names: str | None = option(
        None,
        "names of all columns, as in id,label,sentence, of a .tsv or .csv file that has no header",
        DATA,
        is_column=True,
    )
    skip_bad_rows: bool = option(
        False,
        "leave out rows with more or fewer fields than the header, and count them",
        DATA,
        is_column=True,
    )
    overwrite: bool = option(
        False,
        "start anew in an output folder that already holds results of this script",
        FIRST,
        starts_run=True,
    )
    resume: bool = option(
        False,
        "go on with the run in the output folder, as if it had not stopped; start it if there is"
        " none yet",
        FIRST,
        starts_run=True,
    )
    shard_params: bool = option(
        False,
        "divide the model's parameters over the devices (FSDP), for models that do not fit on each",
        RUN,
        starts_run=True,
    )
    distributed: bool = option(
        False,
        "join the other processes of a job; Slurm, Kubernetes and Cloud TPU are found by JAX"
        " itself",
        RUN,
        starts_run=True,
    )
    coordinator_address: str | None = option(
        None,
        "elsewhere: HOST:PORT of process 0, with the next two; implies --distributed",
        RUN,
        starts_run=True,
    )
    num_processes: int | None = option(None, "how many processes the job has", RUN, starts_run=True)
    process_id: int | None = option(None, "which of them this is, from 0", RUN, starts_run=True)

    @property
    def columns(self) -> Columns:
        """The columns of the data, as far as they are named."""
        names = None
        if self.column_names is not None:
            names = tuple(part.strip() for part in self.column_names.split(","))
        require(
            names is None or all(names),
            f"--column_names {self.column_names!r}: one of the names is empty",
        )
        return Columns(
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
    """Mixed into an `argparse.ArgumentParser`: bad use is an InputError, not an exit."""

    def error(self, message):
        """Raise instead of exiting."""
        hint = (
            "; a value that begins with - is written --option=value"
            if "expected one argument" in message
            else ""
        )
        raise InputError(message + hint)


class Parser(OneLineErrors, argparse.ArgumentParser):
    """A parser whose errors are InputErrors of one line, and name the option that is meant."""

    def parse_args(self, args=None, namespace=None):
        """Parse as `argparse` does."""
        namespace, rest = self.parse_known_args(args, namespace)
        if rest:
            unknown = next((text for text in rest if text.startswith("-")), rest[0])
            known = [name for name in self._option_string_actions if "-" not in name[2:]]
            meant = did_you_mean(unknown.partition("=")[0].replace("-", "_"), known)
            self.error(f"unrecognized arguments: {' '.join(rest)}{meant}")
        return namespace


def make_parser(options_type: type, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options of a dataclass; underscores and dashes are alike."""
    parser = Parser(description=description, formatter_class=_Formatter, allow_abbrev=False)
    hints = typing.get_type_hints(options_type)
    by_group: dict[str, list[dataclasses.Field]] = {}
    for field in dataclasses.fields(options_type):
        by_group.setdefault(field.metadata["group"], []).append(field)
    for title in GROUPS:
        group = parser.add_argument_group(title) if title in by_group else None
        for field in by_group.get(title, ()) if group is not None else ():
            names = dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"])
            group.add_argument(*names, **_argument(field, hints[field.name]))
    return parser


def _argument(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    """Return the keywords of `add_argument` for a field of this type."""
    keywords: dict[str, Any] = {
        "help": field.metadata["help"].replace("%", "%%"),
        "dest": field.name,
    }
    if field.default is dataclasses.MISSING:  # a list
        return keywords | {"action": "append", "default": []}
    keywords["default"] = field.default
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # with None
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return keywords | {"choices": typing.get_args(hint)}
    if hint is bool:
        return keywords | {"nargs": "?", "const": True, "type": _truth_value}
    return keywords | {"type": hint}


def _truth_value(text: str) -> bool:
    values = dict.fromkeys(("yes", "true", "t", "y", "1"), True)
    values |= dict.fromkeys(("no", "false", "f", "n", "0"), False)
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(
            f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n,"
            " 1/0 (case insensitive)."
        )
    return values[text.lower()]


def parse(
    options_type: type,
    description: str | None,
    argv: Sequence[str] | None,
    dataset_defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Return the options given on the command line.

    Args:
      options_type: a frozen dataclass.
      description: shown by `--help`.
      argv: the arguments, by default those of the process.
      dataset_defaults: other defaults for some data sets: {dataset: {option: value}}.
    """
    parser = make_parser(options_type, description)
    if dataset_defaults:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--dataset")
        with contextlib.suppress(argparse.ArgumentError):
            dataset = first.parse_known_args(argv)[0].dataset
            parser.set_defaults(**dataset_defaults.get(dataset, {}))
    options = options_type(**vars(parser.parse_args(argv)))
    _check_texts(options)
    require(0 <= options.seed < 2**32, f"--seed must be from 0 to 4294967295, not {options.seed}")
    return options


def _check_texts(options: Any) -> None:
    """Raise an InputError if a value is empty or not UTF-8."""
    encoding = sys.getfilesystemencoding()
    problem = "is not UTF-8: write it in UTF-8"
    if encoding != "utf-8":
        problem = f"cannot be read, because Python's encoding here is {encoding}: set PYTHONUTF8=1"
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        require(value != "", f"--{field.name} is empty: give a value or leave it out")
        for number, text in enumerate(value if isinstance(value, list) else [value], 1):
            position = f" number {number}" if isinstance(value, list) else f" {value!r}"
            # What reads tokenizers and writes checkpoints takes no other names.
            is_readable = not isinstance(text, str) or is_utf8(text)
            require(is_readable, f"--{field.name}{position} {problem}")


def named(option_name: str, check: Callable[[], Any]) -> Any:
    """Run a check and put the option's name before its complaint."""
    try:
        return check()
    except InputError as error:
        raise InputError(f"{option_name}: {error}") from None


def checked_n_steps(
    n_steps: str, method: str, option_name: str = "--n_steps"
) -> int | str | tuple[int, ...]:
    """Return the value of a number of steps: "auto", or numbers that the rule allows."""
    if n_steps == "auto":
        return n_steps
    counts = n_steps.split(",")
    for count in counts:
        digits = count.strip().removeprefix("-")
        require(
            digits.isascii() and digits.isdigit() and len(digits) < 20,
            f"{option_name} must be an integer or auto, not {n_steps!r}",
        )
        if method != FAST_METHOD:
            named(option_name, lambda count=count: quadrature(method, int(count)))
    numbers = tuple(map(int, counts))
    return numbers if len(numbers) > 1 else numbers[0]


def check_at_least(options: Any, least: int, names: Sequence[str]) -> None:
    """Refuse numbers below `least`; None is none."""
    for name in names:
        value = getattr(options, name)
        require(value is None or value >= least, f"--{name} must be at least {least}, not {value}")


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


def parse_choices(value: str | None, option_name: str, allowed: Sequence[str]) -> list[str]:
    """Return the names of a list separated by commas, each once; None is none."""
    names = [] if value is None else [part.strip() for part in value.split(",")]
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in allowed]
    require(
        not unknown,
        f"{option_name}: {', '.join(map(repr, unknown))} is none of {', '.join(allowed)}",
    )
    return names
