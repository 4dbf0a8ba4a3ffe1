"""What all verbs share: threads, streams, an orderly stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator

import pytest
import torch
import typer

from bench.cli import session
from bench.cli.session import color, in_one_line, interruptible, make_placement, stdout_to_stderr
from bench.errors import ConfigError
from bench.pipeline.stage import Stage
from bench.run.inline import Inline
from bench.run.machine_file import Machine
from bench.run.processes import Processes
from bench.run.progress import Silent
from bench.run.workload import Executor, Workload
from bench.store.store import Store
from bench.store.work import Execution
from tests.conftest import BENCH, ROOT, ToyRun


@pytest.mark.parametrize("threads", [1, 2])
def test_every_library_gets_the_threads_that_are_asked_for(toy_run: ToyRun, threads: int) -> None:
    """A node with more cores must not round differently: the linear algebra of FID runs in numpy and scipy."""
    arguments = ["bench", "run", "toy", "--wandb", "off", "--threads", str(threads), "--store", str(toy_run.store)]
    code = f"import sys, json; sys.argv = {arguments!r}\nfrom bench.cli.main import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nimport numpy, scipy.linalg, threadpoolctl\n"
    code += "print(json.dumps(threadpoolctl.threadpool_info()), file=sys.stderr)"
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    pools = json.loads(told.stderr.splitlines()[-1])
    assert pools
    assert {pool["num_threads"] for pool in pools} == {threads}


def test_what_stages_and_libraries_print_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_to_stderr():
        print("python")
        os.write(1, b"bare\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    print("data")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert out == "data\n"
    assert all(word in err for word in ("python", "bare", "child"))


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handle signals as a program of its own does, and as before in the end."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stopped_with(number: signal.Signals, clean_up: Callable[[], None]) -> None:
    try:
        os.kill(os.getpid(), number)
    finally:
        clean_up()


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_in_one_line_and_nothing_can_disturb_the_end(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[int] = []

    def clean_up() -> None:
        os.kill(os.getpid(), number)  # Ctrl-C twice: the clean-up goes on
        cleaned.append(number)

    with pytest.raises(typer.Exit) as ended, interruptible("bench run demo"):
        stopped_with(number, clean_up)
    os.kill(os.getpid(), number)
    assert (ended.value.exit_code, cleaned) == (130, [number])
    said = "stopped; finished stages and checkpoints are kept. Go on with: bench run demo (same options)\n"
    assert capfd.readouterr() == ("", said)


@pytest.mark.usefixtures("handlers")
def test_a_later_signal_ends_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(session, "_TWICE_S", 0.0)
    with pytest.raises(typer.Exit), interruptible("bench run demo"):
        stopped_with(signal.SIGINT, wait)


class Finalised:
    """Python prints what a finaliser raises, and goes on."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # the handler runs in here


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("executor", [Inline(), Processes(1)])
def test_a_signal_in_a_finaliser_stops_what_runs(executor: Executor) -> None:
    taken: list[str] = []
    held = [Finalised()]

    class Endless(Workload):
        def free(self, ours: Collection[str] = (), at_most: int | None = None) -> list[Stage]:
            taken.append("")
            if len(taken) == 2:
                held.pop()
            return []

        def wait_for_others(self) -> None:
            assert len(taken) < 9

        @property
        def finished(self) -> bool:
            return False

    work = Endless(Store("nowhere"), Execution(), Silent())
    with pytest.raises(typer.Exit) as ended, interruptible("bench run demo"):
        executor.run(work)
    assert (ended.value.exit_code, len(taken)) == (130, 2)


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_finaliser_is_not_forgotten_at_the_end() -> None:
    with pytest.raises(typer.Exit) as ended, interruptible("bench describe demo"):
        Finalised()
    assert ended.value.exit_code == 130


@pytest.mark.usefixtures("handlers")
def test_without_a_signal_the_handlers_are_as_they_were() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with interruptible("bench run demo"):
        assert {n: signal.getsignal(n) for n in before} != before
    assert {n: signal.getsignal(n) for n in before} == before


@pytest.mark.usefixtures("handlers")
def test_jobs_that_go_on_alone_are_said_to(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), interruptible("bench run demo", goes_on_alone=lambda: True):
        raise KeyboardInterrupt
    assert "the SLURM jobs go on without this command. Watch them again with: bench run demo" in capfd.readouterr().err


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible("bench run demo"):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_errors_pass_through() -> None:
    with pytest.raises(ValueError, match="mine"), interruptible("bench run demo"):
        raise ValueError("mine")


def test_what_steers_a_terminal_is_written_out() -> None:
    assert in_one_line("a\n  b\tc\x1b[31m – ü") == "a b c\\x1b[31m – ü"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert color() is None
    monkeypatch.setenv("NO_COLOR", "1")
    assert color() is False


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_prints_in_every_encoding_with_straight_columns(toy_run: ToyRun, encoding: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [*BENCH, "table", "toy", "--notes", "--store", str(toy_run.store)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True)
    assert done.stderr == b""
    text = done.stdout.decode(encoding)
    rows = [line for line in text.splitlines() if line.strip("| ").startswith(("baseline ", "smote ", "ours@2 "))]
    assert len(rows) == 3
    assert len({len(line) for line in rows}) == 1
    assert re.search(r"FID [↓v].*head [↑^].*\((−|-)0\.\d{3}, 95 % CI ", text, re.S), "arrows and signs can be read"


@pytest.mark.parametrize(
    ("device", "n_gpus", "said"),
    [
        ("cuda", 0, "--device cuda: torch sees no GPU here; see `nvidia-smi`, or give cpu or auto"),
        ("cuda:0", 0, "--device cuda:0: torch sees no GPU here; see `nvidia-smi`, or give cpu or auto"),
        ("cuda:2", 2, "--device cuda:2: torch sees 2 here; the last is cuda:1"),
        ("mps", 2, "--device mps: torch sees no mps here; give cpu or auto"),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cpu", 0, None),
        ("auto", 0, None),
    ],
)
def test_a_device_that_is_not_here_is_refused_where_it_would_compute(
    monkeypatch: pytest.MonkeyPatch, device: str, n_gpus: int, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("bench.run.slurm.queue.require_slurm", lambda: None)
    machine = Machine(executor="inline", device=device)
    make_placement(machine, idle=True)
    make_placement(machine.model_copy(update={"executor": "slurm"}))
    if said is None:
        make_placement(machine)
    else:
        with pytest.raises(ConfigError) as refused:
            make_placement(machine)
        assert str(refused.value) == said


def test_torch_is_not_loaded_for_a_device_that_nothing_will_use() -> None:
    code = "import sys\nfrom bench.cli.session import make_machine, make_placement\n"
    code += "make_placement(make_machine(None, device='cuda:99'), idle=True)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("verb", [["table", "toy", "--notes"], ["table", "toy", "--json"], ["methods"], ["ls"]])
def test_a_reader_that_leaves_early_is_no_error(toy_run: ToyRun, verb: list[str]) -> None:
    command = [*BENCH, *verb, *(["--store", str(toy_run.store)] if verb != ["methods"] else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_machine_file_for_slurm_may_name_stages_of_pretraining() -> None:
    """Whatever runs now: in a process of its own, since another test may have imported them."""
    code = """
from bench.cli.session import make_placement
from bench.run.machine_file import Machine
from bench.run.slurm import executor, queue
queue.require_slurm = lambda: None
make_placement(Machine(executor="slurm", slurm={"stages": {"pretraineddiffusion": {"minutes": 600}}}))
print("pretraineddiffusion" in executor.stage_classes())
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"
