"""The output folder of one run: who may write into it, and its `run.json`."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax

from ..errors import InputError, require
from . import processes, sharding
from .files import read_run, user_path, write_json

# JAX's settings that change numbers: compared on --resume like options.
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
# What tells that a folder holds a model.
MODEL_MARKS = ("config.json", "model.safetensors", "pytorch_model.bin")
_locks: list[filelock.BaseFileLock] = []  # held by this process


def release_locks() -> None:
    """Let other runs write where this one wrote; a process that dies has let go as well."""
    while _locks:
        _locks.pop().release()


def _writer(script: str) -> str:
    """Return the command that a run.json calls `script`."""
    return "prune.py --save_pruned" if script == "save_pruned" else f"{script}.py"


class OutputFolder:
    """The output folder of one run, described by its `run.json`.

    Made in two steps, so that bad input leaves nothing behind: the constructor only looks, `start`
    writes. Of several processes, which share the folder, the first one writes.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        script: str,
        files: Sequence[str],
        overwrite: bool = False,
        resume: bool = False,
        option_name: str = "--output_dir",
    ):
        """Check that a run may write here.

        Args:
          folder: where to write.
          script: "train", "attribute", "prune", or "save_pruned", a model that prune.py saved.
          files: the files and folders that the script writes (a pattern for shards), which
            `--overwrite` deletes.
          overwrite: start anew.
          resume: go on with the run that is here; if there is none yet, start it.
          option_name: the option that names the folder.

        Raises:
          InputError: the folder holds results, or another run writes there; names the option that
            helps.
        """
        self.path, self.script, self.files = user_path(folder), script, tuple(files)
        self.run_file = self.path / "run.json"
        self._option_name, self._has_lock = option_name, False
        self._start_time = time.perf_counter()
        require(not (overwrite and resume), "--overwrite and --resume: choose one")
        require(
            self.path.is_dir() or not os.path.lexists(self.path),
            f"{option_name} {self.path} is a file, not a folder",
        )
        if self.run_file.exists():
            self._lock()
        previous_run = read_run(self.path)
        is_damaged = sharding.is_main() and self.run_file.exists() and not previous_run
        require(not is_damaged, f"{self.run_file} is damaged: choose another {option_name}")
        self.previous = sharding.from_main(previous_run)
        owner = self.previous.get("script")
        if self.previous:
            require(
                owner == script,
                f"{option_name} {self.path} holds results of {_writer(owner)}: choose another"
                f" folder for {_writer(script)}",
            )
            holds = (
                "already holds results"
                if self.previous.get("finished")
                else "holds an unfinished run"
            )
            reason = f"{holds} of {_writer(script)}: --resume goes on, --overwrite starts anew"
            require(overwrite or resume, f"{option_name} {self.path} {reason}")
        else:
            foreign = sorted(file.name for file in self._present())
            what = f"{', '.join(foreign)}, which no run of {_writer(script)} wrote"
            require(not foreign, f"{option_name} {self.path} holds {what}: choose another folder")
            model = [name for name in MODEL_MARKS if (self.path / name).exists()]
            holds_model = model and "config.json" not in self.files
            require(
                not holds_model,
                f"{option_name} {self.path} holds a model ({', '.join(model)}): choose another"
                " folder",
            )
        # A run that was killed while it deleted what an older one had left has not begun.
        self.resume = resume and bool(self.previous) and not self.previous.get("clearing")

    def check(self, options: Any, facts: dict[str, Any], may_change: Sequence[str] = ()) -> None:
        """Check that the run which is here is the one that these arguments of `start` describe.

        Raises:
          InputError: options, data, model or JAX's settings are others; names the first.
        """
        starts_run = [
            field.name for field in dataclasses.fields(options) if field.metadata.get("starts_run")
        ]
        ignored = {*starts_run, "output_dir", *may_change}
        given = {
            f"--{name}": value
            for name, value in dataclasses.asdict(options).items()
            if name not in ignored
        }
        given |= _flat(
            {
                name: value
                for name, value in {**facts, "jax_config": _jax_config()}.items()
                if name not in ignored
            }
        )
        before = {
            f"--{name}": value
            for name, value in self.previous["options"].items()
            if f"--{name}" in given
        }
        before |= _flat(
            {
                name: self.previous[name]
                for name in (*facts, "jax_config")
                if name in self.previous and name not in ignored
            }
        )
        defaults = {f"--{field.name}": field.default for field in dataclasses.fields(options)}
        begun, anew = f"the run in {self.path}", "--overwrite starts anew"
        for name in given | before:
            value, value_before = given.get(name), before.get(name)
            is_newer = name not in before and value == defaults.get(name)
            if value == value_before or is_newer:  # an option that the run did not have yet
                continue
            if "fingerprint" in name:
                reason = (
                    f"model or data have changed since {begun} began ({name}), or an earlier"
                    " version began it"
                )
            elif name not in before:
                reason = (
                    f"{name} is {value!r}, but {begun} does not say what it was; did an earlier"
                    " version begin it?"
                )
            else:
                reason = f"{name} is {value!r}, but {begun} was started with {value_before!r}"
            raise InputError(f"--resume: {reason}: {anew}")

    def is_finished(
        self, options: Any, facts: dict[str, Any], may_change: Sequence[str] = ()
    ) -> bool:
        """Return whether the run to be resumed has nothing left to do.

        Args:
          options, facts, may_change: as for `start`.

        Raises:
          InputError: the run is another one, as `check` finds.
        """
        if not (self.resume and self.previous.get("finished")):
            return False
        self.check(options, facts, may_change)
        return True

    def print_finished(self) -> None:
        """Say that there is nothing left to do."""
        print(f"the run in {self.path} is finished; --overwrite starts anew")

    def _present(self) -> Iterator[Path]:
        """Yield what there is of the files that the script writes."""
        for pattern in self.files:
            # A link that leads nowhere is there too, which `glob` says of patterns only.
            single = [self.path / pattern] if os.path.lexists(self.path / pattern) else []
            yield from self.path.glob(pattern) if "*" in pattern else single

    def _lock(self) -> None:
        """Keep other runs out until this process ends, however it ends."""
        if self._has_lock or not sharding.is_main():
            return
        place = self.path / ".lock"
        require(not place.is_symlink(), f"{place} is a link, which cannot be a lock: delete it")
        require(
            place.is_file() or not place.exists(),
            f"{place} is a folder, not the file that is locked: delete it",
        )
        # A file as a lock would outlive its process
        lock = filelock.FileLock(self.path / ".lock", timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InputError(
                f"another run is writing into {self._option_name} {self.path}: wait until it ends,"
                " or choose another"
            ) from None
        except (OSError, NotImplementedError):
            # A file system without locks, or one that cannot be written, as will be said when
            # something is
            return
        _locks.append(lock)
        self._has_lock = True

    def start(self, options: Any, facts: dict[str, Any], may_change: Sequence[str] = ()) -> None:
        """Make the folder, delete what an overwritten run left, write `run.json`.

        Args:
          options: the dataclass of all options.
          facts: what else identifies the run and results depend on, such as fingerprints of model
            and data.
          may_change: options that a resumed run need not share with the first.

        Raises:
          InputError: a resumed run was started with other options, data or model; names the first.
        """
        given = dataclasses.asdict(options)
        if self.resume:
            self.check(options, facts, may_change)
        packages = (
            "attattr-jax",
            "jax",
            "jaxlib",
            "flax",
            "optax",
            "orbax-checkpoint",
            "transformers",
            "datasets",
            "numpy",
        )
        devices = jax.devices()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.record = {
            "script": self.script,
            "finished": False,
            "options": given,
            **facts,
            "jax_config": _jax_config(),
            "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
            "num_processes": jax.process_count(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in packages},
            "started": self.previous.get("started", now) if self.resume else now,
        }
        if self.resume:
            given["overwrite"] = self.previous["options"].get("overwrite", False)
            self.record["resumed"] = [*self.previous.get("resumed", []), now]
            self._warn_of_changes()
        # Before there is anything new for the others to see
        sharding.barrier(f"{self.script} checked")
        if sharding.is_main():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            is_same = read_run(self.path) == self.previous
            require(
                is_same,
                f"another run has written into {self._option_name} {self.path} meanwhile: start"
                " again",
            )
            if not self.resume:
                write_json(self.run_file, {**self.record, "clearing": True})
                for entry in list(self._present()):
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink()
            write_json(self.run_file, self.record)
        sharding.barrier(f"{self.script} started")

    def _warn_of_changes(self) -> None:
        """Warn in one line if packages or the kind of device are others than at the first start.

        `run.json` keeps those of the first start.
        """
        first = self.previous.get(
            "started_with", {name: self.previous.get(name) for name in ("packages", "device")}
        )
        before, now = first["packages"] or {}, self.record["packages"]
        changed = [
            f"{name} {before[name]} is now {now.get(name)}"
            for name in before
            if before[name] != now.get(name)
        ]
        # Their number may change
        kinds = [
            str(device).partition(" x ")[2] for device in (first["device"], self.record["device"])
        ]
        changed += [f"{kinds[0]} is now {kinds[1]}"] if kinds[0] != kinds[1] else []
        if changed:
            self.record["started_with"] = first
            if sharding.is_main():
                what = f"since the run in {self.path} began, {', '.join(changed)}"
                print(
                    f"warning: --resume: {what}: numbers may be rounded differently",
                    file=sys.stderr,
                )

    def finish(self, **results: Any) -> None:
        """Write results and the wall time of this process into `run.json`."""
        processes.check_interrupted()
        self.record |= {
            **results,
            "wall_seconds": round(time.perf_counter() - self._start_time, 3),
            "finished": True,
        }
        if sharding.is_main():
            write_json(self.run_file, self.record)


def _jax_config() -> dict[str, Any]:
    """Return JAX's settings that numbers depend on, from the environment or the caller."""
    # A setting may come and go with versions
    return {name: getattr(jax.config, name, None) for name in JAX_SETTINGS}


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as they are read from JSON, those of an inner dictionary as `outer.inner`."""
    flat = {}
    for name, value in json.loads(json.dumps(facts)).items():
        flat |= (
            {f"{name}.{inner}": part for inner, part in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def default_output_dir(name: str, subfolder: str) -> Path:
    """Return the default output folder for results about a checkpoint.

    It is in the checkpoint's folder, or, if that is not ours to write to, `runs/<name>`.
    """
    folder = user_path(name)
    return folder / subfolder if folder.is_dir() else Path("runs") / folder.name / subfolder
