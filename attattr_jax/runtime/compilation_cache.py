"""Compiled programs kept between processes: JAX's persistent cache, repaired after a crash.

JAX keeps a program in two files, `KEY-cache`, compressed, and `KEY-atime`, which it writes next. If
the second is missing, it can add no program any more; a first one that was cut short is never
replaced.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import zlib
from pathlib import Path

import filelock
import jax

MAX_BYTES = 2 * 2**30
MIN_COMPILE_SECONDS = 0.3
LOCK_SECONDS = 2
LOOK_NS = 2 * 10**9
SLACK_NS = 10**9  # by which the times of files may lag behind the clock
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKED = ".attattr-jax-checked"  # its time: when all entries were looked at


@functools.cache
def keep_programs(in_script: bool = False) -> None:
    """Keep compiled programs in `~/.cache/attattr-jax`.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off. A second call does nothing.

    Args:
      in_script: the process is ours: bounds hold also in the folder that JAX_COMPILATION_CACHE_DIR
        names. Otherwise a cache that is configured already is left alone.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not jax.config.jax_enable_compilation_cache or (folder is not None and not in_script):
        return
    if folder is None:
        folder = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "attattr-jax"
        )
        # No home folder, or a read-only one
        if not os.path.isabs(folder) or not _can_write(folder):
            return
        jax.config.update("jax_compilation_cache_dir", folder)
    elif "://" not in folder and not _can_write(folder):
        print(
            f"warning: compiled programs are not kept: nothing can be written into {folder}",
            file=sys.stderr,
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    bounds = {
        "jax_compilation_cache_max_size": MAX_BYTES,
        "jax_persistent_cache_min_compile_time_secs": MIN_COMPILE_SECONDS,
    }
    for name, value in bounds.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # Without a bound JAX neither locks nor needs the pairs
    if "://" not in folder and jax.config.jax_compilation_cache_max_size != -1:
        mend(Path(folder))


def _can_write(folder: str) -> bool:
    """Return whether a folder exists, or could be made, and can be written.

    JAX would warn at every program otherwise.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def mend(folder: Path) -> None:
    """Make a cache usable again after a crash.

    Programs that were cut short are deleted, pairs of files completed. Only entries written since
    the last look are read, oldest first and for `LOOK_NS` at most: the next start goes on from
    there.
    """
    start, stamp = time.time_ns(), folder / _CHECKED
    try:
        checked = stamp.stat().st_mtime_ns if stamp.exists() else 0
        stats = {program: program.stat() for program in folder.glob("*-cache")}
        recent = [
            program
            for program, stat in stats.items()
            if stat.st_mtime_ns >= checked or not stat.st_size
        ]
        looked_until, suspects = start - SLACK_NS, []
        for program in sorted(recent, key=lambda program: stats[program].st_mtime_ns):
            if time.time_ns() > start + LOOK_NS:
                looked_until = min(looked_until, stats[program].st_mtime_ns)
                break
            if not is_whole(program):  # or it is being written: looked at again
                suspects.append(program)
        # JAX's own: nobody is writing
        with filelock.FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
            for program in suspects:
                if program.exists() and not is_whole(program):
                    program.unlink()
            programs, times = (
                {file.name[:-6]: file for file in folder.glob(f"*{kind}")}
                for kind in ("-cache", "-atime")
            )
            for key in programs.keys() - times.keys():
                (folder / f"{key}-atime").write_bytes(start.to_bytes(8, "little"))
            for key in times.keys() - programs.keys():
                times[key].unlink()
            stamp.touch()
            os.utime(stamp, ns=(start, looked_until))
    except (OSError, NotImplementedError):  # busy, read-only, or without locks: JAX does as it can
        return


def is_whole(program: Path) -> bool:
    """Return whether a program can be decompressed, as JAX does."""
    entry, decompress = program.read_bytes(), zlib.decompress
    if entry.startswith(_ZSTD_MAGIC):
        try:
            from compression.zstd import decompress
        except ImportError:
            try:
                from zstandard import decompress
            except ImportError:
                return True  # not this Python's
    try:
        decompress(entry)
    except Exception:  # each library has an error of its own
        return False
    return True
