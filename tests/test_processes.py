"""Many devices, many processes, and runs that end too early: the numbers are always the same."""

import configparser
import importlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import filelock
import numpy as np
import pytest
from conftest import read_jsonl
from jobs import joining

import attattr_jax as aa
import attattr_jax_start
from attattr_jax.commands import attribute, cli, prune, train
from attattr_jax.explanations import explanation
from attattr_jax.runtime import files, output, processes
from attattr_jax.training.checkpoints import is_news
from attattr_jax.training.metrics_log import MetricsLog

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROOT = Path(__file__).parent.parent
TRAIN = (
    "--num_train_epochs 2 --train_batch_size 8 --learning_rate 5e-3 --logging_steps 1 --save_steps"
    " 4 --max_seq_length 16"
)
COMMANDS = {
    "train": "--model {tiny} --dataset {data} --output_dir {out}/model " + TRAIN,
    "attribute": (
        "--checkpoint {trained} --dataset {data} --n_steps 4 --output_dir {out}/attribution"
        " --batch_size 3 --report_examples 2"
    ),
    "prune": (
        "--checkpoint {trained} --dataset {data} --curve --num_scoring_examples 11 --output_dir"
        " {out}/pruning --curve_importances random --curve_seeds 1"
    ),
}
# What XLA's communication library says of itself, its threads in one another's words.
GLOO = re.compile(
    r"\[Gloo\]|Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is"
    r" :|\d+|\s+"
)
# In a process of its own: scripts one after the other, each with its arguments.
PROGRAM = """
import importlib, json, sys
for name, arguments in json.loads(sys.argv[1]):
    status = importlib.import_module("attattr_jax.commands." + name).main(arguments)
    if status:
        sys.exit(status)
"""


def start(commands, num_devices=1, program=PROGRAM):
    """Start a process with so many virtual devices that runs [(script, arguments), …]."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices)}
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(commands)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_job(commands, num_processes, num_devices=1, program=PROGRAM):
    """Start each command in so many processes that find one another over loopback."""
    return [
        start([(name, [*arguments, *join]) for name, arguments in commands], num_devices, program)
        for join in joining(num_processes)
    ]


def ended(jobs):
    """Wait for processes and return (status, stdout, stderr) of each."""
    results = []
    for process in jobs:
        try:
            out, error = process.communicate(timeout=240)
        finally:
            process.kill()
        results.append((process.returncode, out, error))
    return results


def end_well(jobs):
    results = ended(jobs)
    assert [status for status, *_ in results] == [0] * len(jobs), "\n".join(
        error[-3000:] for *_, error in results
    )
    return results


@pytest.fixture(scope="module")
def commands(tiny_folder, trained_folder, reviews_folder):
    """The arguments of each script, for a folder to write into."""
    places = {"tiny": tiny_folder, "trained": trained_folder, "data": reviews_folder}
    return lambda out, more=(): [
        (name, [*command.format(out=out, **places).split(), *more])
        for name, command in COMMANDS.items()
    ]


@pytest.fixture(scope="module")
def one_device(commands, tmp_path_factory):
    """What all three scripts write on one device."""
    folder = tmp_path_factory.mktemp("one")
    end_well([start(commands(folder))])
    return folder


def assert_same(folder, expected):
    """Compare all numbers that the scripts wrote."""
    metrics = [read_jsonl(each / "model" / "metrics.jsonl") for each in (folder, expected)]
    assert [line["step"] for line in metrics[0]] == [line["step"] for line in metrics[1]]
    for name in ("loss", "eval_loss", "eval_accuracy"):
        values = [[line[name] for line in lines if name in line] for lines in metrics]
        np.testing.assert_allclose(*values, atol=1e-5)
    assert len([line for line in metrics[0] if "loss" in line]) == 10

    found, reference = (aa.load_attributions(each / "attribution") for each in (folder, expected))
    assert [one.text for one in found] == [one.text for one in reference] and len(found) == 15
    assert not list(found.folder.glob("parts")) and len(list(found.folder.glob("shard-*"))) == len(
        {one.arrays["file"] for one in found}
    )
    for one, other in zip(found, reference, strict=True):
        for name in one.array_names:
            np.testing.assert_allclose(
                one.array(name), other.array(name), atol=1e-5 * np.abs(other.array(name)).max()
            )
    for name in ("attribution", "pruning"):
        importance = [
            json.loads((each / name / "head_importance.json").read_text())["importance"]
            for each in (folder, expected)
        ]
        np.testing.assert_allclose(*importance, atol=1e-6)
    results = [
        json.loads((each / "pruning" / "pruning.json").read_text()) for each in (folder, expected)
    ]
    assert results[0]["removal_order"] == results[1]["removal_order"]
    for curve, other in zip(results[0]["curves"], results[1]["curves"], strict=True):
        for name in ("num_pruned", "accuracy", "loss"):
            np.testing.assert_allclose(
                [point[name] for point in curve["points"]],
                [point[name] for point in other["points"]],
                atol=1e-5,
            )


@pytest.mark.parametrize("more", [(), ("--shard_params",)], ids=["replicated", "divided"])
def test_eight_devices_give_the_numbers_of_one(commands, one_device, tmp_path, more):
    end_well([start(commands(tmp_path, more), num_devices=8)])
    assert json.loads((tmp_path / "model" / "run.json").read_text())["device"].startswith("8 x")
    assert_same(tmp_path, one_device)


@pytest.mark.parametrize(
    ("num_processes", "num_devices", "more"), [(2, 2, ("--shard_params",)), (4, 1, ())]
)
def test_processes_give_the_numbers_of_one(
    commands, one_device, tmp_path, num_processes, num_devices, more
):
    for command in commands(tmp_path, more):
        results = end_well(start_job([command], num_processes, num_devices))
        said = [GLOO.sub("", out) for _, out, _ in results]
        assert said[0] and not any(said[1:]), "results are printed once"
    run = json.loads((tmp_path / "attribution" / "run.json").read_text())
    assert (
        run["finished"]
        and run["num_processes"] == num_processes
        and run["device"].startswith(f"{num_processes * num_devices} x")
    )
    assert_same(tmp_path, one_device)


# ---- SIGTERM -------------------------------------------------------------------------------------


def send_sigterm_at(monkeypatch, owner, name, call):
    """Let this process get SIGTERM at the so-manyth call of a function, as from a scheduler."""
    real, calls = getattr(owner, name), 0

    def signalling(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalling)


@pytest.mark.parametrize(
    ("script", "owner", "function", "call", "said", "saved"),
    [
        (train, MetricsLog, "write", 6, "step 6 of 10 is saved", "model/checkpoints/6"),
        (
            attribute,
            explanation.Explanation,
            "__init__",
            5,
            "what was computed is saved",
            "attribution/parts/manifest-0000.jsonl",
        ),
        (
            prune,
            files.Journal,
            "put",
            4,
            "the same command with --resume goes on",
            "pruning/progress.jsonl",
        ),
    ],
    ids=["train", "attribute", "prune"],
)
def test_preemption_saves_and_the_run_goes_on(
    commands, one_device, tmp_path, capsys, monkeypatch, script, owner, function, call, said, saved
):
    arguments = dict(commands(tmp_path))[script.__name__.rsplit(".", 1)[1]]
    with monkeypatch.context() as patched:
        send_sigterm_at(patched, owner, function, call)
        assert script.main(arguments) == 143
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / saved).exists()
    assert script.main([*arguments, "--resume"]) == 0
    for folder in one_device.iterdir():
        if not (tmp_path / folder.name).exists():
            (tmp_path / folder.name).symlink_to(folder)
    assert_same(tmp_path, one_device)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


TERM_AT_STEP_6 = """
import os, signal, sys, time
from attattr_jax.training import metrics_log as training
write = training.MetricsLog.write
def signalling(self, **fields):
    if fields["step"] == 6 and sys.argv[1].endswith('"1"]]]'):
        os.kill(os.getpid(), signal.SIGTERM)
    if fields["step"] >= 6:
        # steps of a real model take their time as well, in which the processes agree when to stop
        time.sleep(0.7)
    write(self, **fields)
training.MetricsLog.write = signalling
"""


def test_one_process_is_preempted_and_all_save(commands, one_device, tmp_path):
    command = commands(tmp_path)[0]
    results = ended(start_job([command], 2, program=TERM_AT_STEP_6 + PROGRAM))
    assert [status for status, *_ in results] == [143, 143], results
    steps = sorted(
        int(folder.name)
        for folder in (tmp_path / "model" / "checkpoints").iterdir()
        if folder.name.isdigit()
    )
    assert steps[-1] > 4, "not only what is saved every four steps"
    assert train.main([*command[1], "--resume"]) == 0  # whatever the number of processes was before
    losses = [
        [line["loss"] for line in read_jsonl(each / "model" / "metrics.jsonl") if "loss" in line]
        for each in (tmp_path, one_device)
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


class Discarding:
    """Gets a signal where Python discards what its handler raises."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("script", "owner", "function", "number", "said"),
    [
        (
            train,
            MetricsLog,
            "write",
            signal.SIGINT,
            "interrupted: the same command with --resume goes on from the last checkpoint",
        ),
        (
            attribute,
            explanation.Explanation,
            "__init__",
            signal.SIGINT,
            "interrupted: what was computed is saved, --resume goes on",
        ),
        (
            prune,
            files.Journal,
            "put",
            signal.SIGTERM,
            "terminated by SIGTERM: the same command with --resume goes on",
        ),
    ],
    ids=["train", "attribute", "prune"],
)
def test_a_signal_is_not_lost_where_exceptions_are(
    commands, one_device, tmp_path, capsys, monkeypatch, script, owner, function, number, said
):
    arguments = dict(commands(tmp_path))[script.__name__.rsplit(".", 1)[1]]
    real, calls = getattr(owner, function), []

    def discarding(*given, **more):
        calls.append(len(calls))
        if len(calls) == 2:
            Discarding(number)
        return real(*given, **more)

    monkeypatch.setattr(owner, function, discarding)
    handlers = {
        each: signal.signal(each, signal.default_int_handler)
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        assert script.main(arguments) == 128 + number
        assert all(signal.getsignal(each) is signal.default_int_handler for each in handlers), (
            "those of the caller"
        )
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: {said}") and not any(
        "Exception ignored" in line for line in lines
    )
    assert len(calls) <= 3, "the next step or batch ends the run"


def test_an_exception_made_of_an_interruption_is_one(capsys):
    def convert():
        try:
            signal.raise_signal(signal.SIGTERM)
        except processes.Terminated:
            raise ImportError("failed to import") from None  # as native modules do

    assert cli.run(convert) == 143
    assert (
        capsys.readouterr().err
        == "error: terminated by SIGTERM: the same command with --resume goes on\n"
    )


def test_sigterm_after_the_last_step_is_not_lost():
    def work():
        with processes.preemption(together=False):
            signal.raise_signal(signal.SIGTERM)

    assert cli.run(work) == 143


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated by SIGTERM")]
)
def test_signals_during_imports_are_one_line(tmp_path, number, said):
    (tmp_path / "jax.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(number)})\ntime.sleep(60)\n"
    )
    program = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " runpy.run_path('train.py', run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (128 + number, f"error: {said}\n")


def test_installed_commands_exist(monkeypatch):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = dict(
        line.split(" = ")
        for line in parser["options.entry_points"]["console_scripts"].split("\n")
        if line
    )
    assert listed.keys() == {
        "attattr-train",
        "attattr-attribute",
        "attattr-prune",
        "attattr-correlate",
    }
    monkeypatch.setattr(attattr_jax_start, "_start", lambda command: command)
    for place in listed.values():
        module, name = place.split(":")
        command = getattr(importlib.import_module(module), name)()
        assert callable(importlib.import_module(f"attattr_jax.commands.{command}").main)


# ---- What else can happen ------------------------------------------------------------------------


def test_a_second_run_on_one_folder_is_refused(commands, trained_folder, tmp_path, capsys):
    arguments = commands(tmp_path)[1][1]
    folder = tmp_path / "attribution"
    assert attribute.main(arguments) == 0
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with filelock.FileLock(folder / ".lock"):  # as the other run does
        for more in (["--resume"], ["--overwrite"]):
            assert attribute.main([*arguments, *more]) == 2
            assert "another run is writing into --output_dir" in capsys.readouterr().err
        assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before | {
            folder / ".lock": mock.ANY
        }
    assert attribute.main([*arguments, "--overwrite"]) == 0


def test_a_link_is_no_lock(commands, tmp_path, capsys):
    arguments = commands(tmp_path)[1][1]
    (tmp_path / "attribution").mkdir()
    (tmp_path / "attribution" / ".lock").symlink_to(tmp_path / "mine")
    assert attribute.main(arguments) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(".lock is a link, which cannot be a lock: delete it")
    )
    assert [file.name for file in (tmp_path / "attribution").iterdir()] == [".lock"] and not (
        tmp_path / "mine"
    ).exists()


def test_a_folder_is_no_lock(tmp_path):
    (tmp_path / ".lock").mkdir()
    (tmp_path / "run.json").write_text('{"script": "train", "options": {}}')
    with pytest.raises(
        aa.InputError, match=r"\.lock is a folder, not the file that is locked: delete it"
    ):
        output.OutputFolder(tmp_path, "train", train.FILES, resume=True)


def test_a_link_that_leads_nowhere_is_seen(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(aa.InputError, match=r"holds metrics.jsonl, which no run of train.py wrote"):
        output.OutputFolder(tmp_path, "train", train.FILES)


def test_tracebacks_of_what_is_said_in_one_line_are_not_logged():
    for error, is_logged in (
        (KeyboardInterrupt(), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("x"), True),
    ):
        record = logging.makeLogRecord({"exc_info": (type(error), error, None)})
        assert is_news(record) is is_logged


def test_a_full_disk_during_a_checkpoint_is_one_line(commands, tmp_path):
    # A limit on the size of files stands for the disk: tests cannot make one.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    # Of JAX's cache the limit is not: JAX warns where it cannot add a program
    limit += "import os; os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'\n"
    ((status, _, error),) = ended([start(commands(tmp_path)[:1], program=limit + PROGRAM)])
    assert (tmp_path / "model" / "metrics.jsonl").exists(), "it had begun"
    progress = (" examples", "labels are class indices")
    lines = [
        line
        for line in re.split(r"[\r\n]+", error)
        if line.strip() and not any(part in line for part in progress)
    ]
    assert (status, lines) == (
        2,
        [f"error: {tmp_path / 'model' / 'checkpoints'}: no space left; make some, then --resume"],
    )


def test_what_another_run_wrote_meanwhile_is_not_deleted(tmp_path):
    # Nothing is there
    late = output.OutputFolder(tmp_path, "attribute", attribute.FILES, resume=True)
    early = output.OutputFolder(tmp_path, "attribute", attribute.FILES, resume=True)
    early.start(attribute.Options(), {})
    output.release_locks()
    with pytest.raises(
        aa.InputError, match="another run has written into --output_dir .* meanwhile: start again"
    ):
        late.start(attribute.Options(), {})
    output.release_locks()


def test_killed_while_it_deletes_what_was_there(commands, one_device, tmp_path, monkeypatch):
    """Half of an older run's files are no start of a new one."""
    arguments = commands(tmp_path)[1][1]
    shutil.copytree(one_device / "attribution", tmp_path / "attribution")

    class Killed(BaseException):
        pass

    def die(self, missing_ok=False):
        if not missing_ok:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", die)
        with pytest.raises(Killed):
            attribute.main([*arguments, "--overwrite", "--target", "gold"])
    left = sorted(file.name for file in (tmp_path / "attribution").iterdir())
    assert "examples.jsonl" in left and "manifest.json" in left
    assert attribute.main([*arguments, "--target", "gold", "--resume"]) == 0
    assert all(one.target == one.label for one in aa.load_attributions(tmp_path / "attribution"))


def test_resume_mends_a_finished_run_and_makes_its_views_anew(
    commands, one_device, tmp_path, capsys
):
    arguments = commands(tmp_path)[1][1]
    folder = tmp_path / "attribution"
    shutil.copytree(one_device / "attribution", folder)
    shard = folder / "shard-0000-00000.safetensors"
    expected = shard.stat().st_size
    os.truncate(shard, expected // 2)
    (folder / "report.html").unlink()
    assert attribute.main([*arguments, "--resume", "--export", "csv"]) == 0
    assert (
        f"{shard} has {expected // 2} bytes, not {expected}: its examples are computed again"
        in capsys.readouterr().err
    )
    assert (folder / "report.html").exists() and (folder / "export" / "attributions.csv").exists()
    for one, other in zip(
        aa.load_attributions(folder), aa.load_attributions(one_device / "attribution"), strict=True
    ):
        np.testing.assert_allclose(one.attributions, other.attributions, atol=1e-6)


@pytest.fixture
def stopped_training(commands, one_device, tmp_path):
    """As if the training had been killed after the checkpoint of step 8, in a folder of its own."""
    shutil.copytree(one_device / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "model" / "checkpoints" / "10")
    run = json.loads((tmp_path / "model" / "run.json").read_text())
    (tmp_path / "model" / "run.json").write_text(json.dumps(run | {"finished": False}))
    return [*commands(tmp_path)[0][1], "--resume"]


def test_the_checkpoint_before_a_damaged_one_is_used(
    stopped_training, one_device, tmp_path, capsys
):
    checkpoints = tmp_path / "model" / "checkpoints"
    assert {file.name for file in checkpoints.iterdir()} >= {"5", "8"}
    for file in (checkpoints / "8").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    assert train.main(stopped_training) == 0
    assert f"checkpoint {checkpoints / '8'} is damaged" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "model" / "run.json").read_text())["results"]["resumed_from_step"]
        == 5
    )
    losses = [
        [line.get("loss") for line in read_jsonl(each / "model" / "metrics.jsonl")]
        for each in (tmp_path, one_device)
    ]
    assert len(losses[0]) == len(losses[1]) == 12


def test_no_checkpoint_is_unpickled(stopped_training):
    """An Orbax checkpoint, like a Hugging Face folder, is data: nothing in it is run."""
    unpickled, is_on = [], True
    sys.addaudithook(
        lambda event, args: (
            unpickled.append(args) if is_on and event == "pickle.find_class" else None
        )
    )
    assert train.main(stopped_training) == 0
    is_on = False
    assert not unpickled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--num_processes 2",
            (
                "--coordinator_address and --process_id is missing: give all of"
                " --coordinator_address, --num_processes"
            ),
        ),
        (
            "--coordinator_address a:1 --num_processes 2 --process_id 2",
            "--process_id must be from 0 to below --num_processes 2, not 2",
        ),
        (
            "--coordinator_address a --num_processes 2 --process_id 1",
            "must be HOST:PORT of process 0, as in node1:12345, not 'a'",
        ),
        ("--distributed", "--distributed: no cluster that JAX knows is found here"),
    ],
)
def test_processes_that_cannot_be_found(commands, tmp_path, capsys, monkeypatch, options, message):
    def initialize(**given):  # what JAX says, which it would here of programs that have run already
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    for script, (_, arguments) in zip((train, attribute, prune), commands(tmp_path), strict=True):
        assert script.main([*arguments, *options.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not list(tmp_path.iterdir())


def test_a_journal_counts_whole_lines_only(tmp_path):
    file = tmp_path / "progress.jsonl"
    journal = files.Journal(file)
    for name in "abc":
        journal.put(name, {"of": name, "value": 1 / 3})
    lines = file.read_text().splitlines(keepends=True)
    # Damaged, and cut short
    file.write_text(lines[0] + lines[1].replace("0.3", "0.4") + lines[2][:-9])
    again = files.Journal(file)
    assert again.known == {"a": {"of": "a", "value": 1 / 3}} and again.damaged == [2, 3]
    again.put("d", 4)
    assert files.Journal(file).get("d") == 4, "it does not go on with the line that was cut short"
    unwritten = files.Journal(file, is_written=False)
    unwritten.put("e", 5)
    assert unwritten.get("e") == 5 and files.Journal(file).get("e") is None
