"""The process that owns the daemons of a SLURM for tests: it starts them, and ends all that comes of them.

It adopts what they leave behind (slurmstepd, jobs), so that stopping is: kill our descendants, and nobody else's. It stops
on SIGTERM, and when whoever started it is gone, however that one ended. Run by `tests.slurm.cluster`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_READY_S = 30.0
_REVOKED_S = 1.2  # more than the second that slurmd counts in
_PR_SET_CHILD_SUBREAPER = 36

# Times are as short as SLURM takes them: a real cluster has minutes where this one has seconds.
_CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmdParameters=config_overrides
InactiveLimit=0
KillWait=1
MinJobAge=10
EpilogMsgTime=0
MessageTimeout=10
SlurmctldTimeout=300
SlurmdTimeout=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=DEFAULT Nodes=node State=UP
PartitionName=main Default=YES MaxTime=60 PriorityTier=1 PreemptMode=OFF
PartitionName=low MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=3
PartitionName=high MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


class NotStartedError(Exception):
    """A daemon that ended or was not ready in time."""


class Supervisor:
    """The three daemons of one cluster, and their descendants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._waiting_since: dict[str, float] = {}
        # orphans of the daemons become our children, so that they can be found when we stop
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self) -> None:
        """Start the daemons, in the order in which they need each other, and return when the node is idle.

        Raises:
            NotStartedError: with the name of the daemon that ended.
        """
        self._write_files()
        names = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{name}" for option, name in names.items()]
        self._daemon("munged", "--foreground", "--force", *options)  # force: a folder that only root may enter is fine
        self._wait_for((self.folder / "munge.socket").exists)
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-N", "node")
        self._wait_for(lambda: self._asked("sinfo", "--noheader", "--partition", "main", "--format", "%T") == "idle")

    def _write_files(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        ctld_port, slurmd_port = _free_ports(2)
        text = _CONF.format(host=socket.gethostname(), folder=self.folder, ctld_port=ctld_port, slurmd_port=slurmd_port)
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        # any character device passes for a GPU: jobs see CUDA_VISIBLE_DEVICES, and no card
        gres = "".join(f"NodeName=node Name=gpu File=/dev/{device}\n" for device in ("null", "zero"))
        (self.folder / "gres.conf").write_text(gres, encoding="utf-8")

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as out:
            daemon = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.daemons.append(daemon)

    def _asked(self, *command: str) -> str:
        with subprocess.Popen(
            command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as asked:
            return asked.communicate()[0].strip()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _READY_S
        while not condition():
            for daemon in self.daemons:
                if daemon.poll() is not None:
                    raise NotStartedError(f"{daemon.args[0]} ended with code {daemon.returncode}")  # type: ignore[index]
            if time.monotonic() > end:
                raise NotStartedError(f"not ready within {_READY_S:.0f} s")
            time.sleep(0.05)

    def watch(self, parent: int) -> None:
        """Reap what ends, for as long as `parent` is our parent; 0 is for ever."""
        for turn in itertools.count():
            if parent and os.getppid() != parent:
                return
            _reap()
            if turn % 3 == 0:
                self._hurry()
            time.sleep(0.2)

    def _hurry(self) -> None:
        """Let requeued jobs start soon: SLURM holds them back for as long as their credentials live, 6 s or more.

        Not at once: slurmd revokes a job's credentials up to the second of its end, and a job whose new credential is
        of that same second fails without having run.
        """
        lines = self._asked("squeue", "--noheader", "--array", "--state", "PENDING", "--format", "%i %r").splitlines()
        now = time.monotonic()
        waiting = [line.split()[0] for line in lines if line.endswith(" BeginTime")]
        self._waiting_since = {job: self._waiting_since.get(job, now) for job in waiting}
        for job, since in self._waiting_since.items():
            if now - since > _REVOKED_S:
                self._asked("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        """Kill every descendant; what they leave behind becomes our child, and is killed in the next round."""
        while found := _descendants(os.getpid()):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(root: int) -> list[int]:
    """Return the processes below one, zombies with them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended while we looked
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:  # grows while we go through it
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def main(folder: Path, parent: int) -> None:
    """Have a cluster in a folder until we are told to stop; say `ready`, or why not, on stdout."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit(0))
    supervisor = Supervisor(folder)
    try:
        supervisor.start()
        print("ready", flush=True)
        supervisor.watch(parent)
    except NotStartedError as error:
        print(error, flush=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        supervisor.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
