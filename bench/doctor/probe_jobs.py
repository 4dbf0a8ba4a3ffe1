"""Submit a small probe job of each kind, in the same way as real jobs, and check its report."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.checks import Check
from bench.doctor.probe import Probe, code_digest, report_of
from bench.doctor.store import USE_LEASES, lock_kind, scratch
from bench.errors import BenchError, in_words
from bench.files import write_text
from bench.run.machine_file import JobRequest, Machine
from bench.run.slurm.queue import Queue, ask_queue, cancel, submit
from bench.store.claims import Locks
from bench.store.manifest import versions

_TO_REPORT_S = 300.0  # from a job's start to its report; loading torch from a slow file server takes long
_TO_END_S = 10.0
_CLOCK_S = 5.0  # largest difference that two clocks may have


@dataclass
class _Sent:
    """A probe that was submitted and has not reported."""

    label: str
    ask: JobRequest
    job: str
    at: float = field(default_factory=time.time)
    begun: float | None = None  # monotonic time when the job was first seen running
    gone: float | None = None  # monotonic time when the job was first missing in the queue


def probe_nodes(machine: Machine, store: Path, asks: dict[str, JobRequest], wait_s: float) -> Iterator[Check]:
    """Submit a probe for each of `asks`, and yield the checks of each report as it comes."""
    kind = lock_kind(machine, store)
    with scratch(store) as folder, contextlib.ExitStack() as stack:
        claim = Locks(folder / "locks", kind).try_claim("ours", {})
        if claim:  # else `examine_store` has said what is wrong with the locks
            stack.callback(claim.release)
        write_text(folder / "token", token := secrets.token_hex(8))
        sent: list[_Sent] = []
        stack.callback(_dismiss, folder, sent)
        for label, ask in asks.items():
            probe = Probe(str(folder), label, kind, ask.gpus or 0)
            try:
                (job,) = submit([probe], f"bench-doctor-{label}", _tiny(ask), machine.slurm, folder / "jobs")
            except BenchError as error:
                yield Check(f"probe {label}", False, str(error))
                continue
            sent.append(_Sent(label, ask, job))
            print(f"probe job {job} submitted; it may wait {wait_s:.0f} s for its start", file=sys.stderr)
        yield from _reports(machine, folder, list(sent), token, kind, wait_s)


def _tiny(ask: JobRequest) -> JobRequest:
    """Return a small request for the same kind of node, so that the probe starts soon."""
    little = {"cpus": 1, "memory_gb": min(ask.memory_gb or 4, 4), "minutes": min(ask.minutes or 10, 10)}
    return ask.model_copy(update=little)


def _dismiss(folder: Path, sent: list[_Sent]) -> None:
    """Tell the probes to end, and cancel those that do not, since their folder is about to be removed."""
    write_text(folder / "done", "")
    end = time.monotonic() + _TO_END_S
    while (left := _living(sent)) and time.monotonic() < end and all(report_of(folder, s.label) for s in left):
        time.sleep(0.2)
    if left:
        cancel(s.job for s in left)


def _living(sent: list[_Sent]) -> list[_Sent]:
    queue = ask_queue() if sent else None
    return [s for s in sent if queue is None or s.job in queue.live]


def _reports(
    machine: Machine, folder: Path, waiting: list[_Sent], token: str, kind: str, wait_s: float
) -> Iterator[Check]:
    started, asked, queue = time.monotonic(), 0.0, None
    while waiting:
        for sent in list(waiting):
            if report := report_of(folder, sent.label):
                waiting.remove(sent)
                yield from _judge(sent, report, folder, token, kind)
        now = time.monotonic()
        if now - asked > min(machine.slurm.poll_s, 2.0):
            asked, queue = now, ask_queue()
        for sent in list(waiting):
            why = _given_up(sent, queue, folder, now - started, wait_s, machine.slurm.settle_s) if queue else None
            if why:
                waiting.remove(sent)
                yield Check(f"probe {sent.label}", False, why)
        time.sleep(0.1)


def _given_up(sent: _Sent, queue: Queue, folder: Path, waited_s: float, wait_s: float, settle_s: float) -> str | None:
    """Return why it is useless to wait longer for a probe, or None."""
    state, now = queue.live.get(sent.job), time.monotonic()
    if state is None:
        sent.gone = sent.gone or now
        if now - sent.gone <= settle_s:  # its report may be on its way
            return None
        ended = queue.ended.get(sent.job, "and is forgotten by SLURM")
        return f"job {sent.job} ended ({ended}) without a word: {_log(folder, sent)}"
    if state.startswith("PENDING") and sent.begun is None:
        hint = "see `squeue --start`, or give it more time with --wait"
        return f"job {sent.job} did not start within {wait_s:.0f} s: {state}; {hint}" if waited_s > wait_s else None
    sent.begun = sent.begun or now
    late = f"job {sent.job} runs, {state}, and has not reported in {_TO_REPORT_S:.0f} s: {_log(folder, sent)}"
    return late if now - sent.begun > _TO_REPORT_S else None


def _log(folder: Path, sent: _Sent) -> str:
    """Return the last lines that a probe printed."""
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in (folder / "jobs").glob(f"{sent.job}_*_log.out")]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    if lines:
        return " | ".join(lines[-3:])
    seen = f"does the node see {folder.parent}? The store must be on a shared file system"
    return f"it could not even write its log; {seen}"


def _judge(sent: _Sent, report: dict[str, Any], folder: Path, token: str, kind: str) -> Iterator[Check]:
    """Yield the checks of a report. The probe still holds its lock while this runs."""
    seen, what, host = time.time(), f"probe {sent.label}", report["host"]
    yield Check(what, True, f"job {sent.job} ran on {host}")
    yield _same_code(what, report)
    if sent.ask.gpus:
        found = report["gpus"]
        enough = isinstance(found, list) and len(found) >= sent.ask.gpus
        lack = f"{sent.ask.gpus} asked for, torch sees {found or 'none'}; see the driver, slurm.setup, slurm.python"
        yield Check(f"{what}, GPUs", enough, ", ".join(found) if enough else lack)
    same = report["token"] == token
    stale = f"what was just written here is not seen on {host}; the store must be on a shared file system"
    yield Check(f"{what}, store", same, f"seen and written on {host}" if same else stale)
    yield _locks_meet(what, report, folder, sent.label, kind)
    off = max(0.0, report["at"] - seen, sent.at - report["at"])
    ahead = f"{host}'s clock is {off:.0f} s off; have it synchronised (NTP)"
    yield Check(
        f"{what}, clock", off <= _CLOCK_S, f"within {max(off, seen - sent.at):.1f} s" if off <= _CLOCK_S else ahead
    )


def _same_code(what: str, report: dict[str, Any]) -> Check:
    here, there = versions(), report["versions"]
    differ = [f"{n} {there.get(n)} (here {here.get(n)})" for n in sorted(here | there) if here.get(n) != there.get(n)]
    if report["code"] != code_digest():
        differ.insert(0, f"other code of bench ({report['code']}, here {code_digest()})")
    hint = f"{report['python']} has {'; '.join(differ)}; set slurm.python or slurm.setup"
    return Check(f"{what}, code", not differ, hint if differ else f"the same code and libraries at {report['python']}")


def _locks_meet(what: str, report: dict[str, Any], folder: Path, label: str, kind: str) -> Check:
    try:
        got_in = Locks(folder / "locks", kind).try_claim(label, {})
    except OSError as error:
        return Check(f"{what}, locks", False, f"{kind}: {in_words(error)}; {USE_LEASES}")
    if got_in:
        got_in.release()
    alone = socket.gethostname() == report["host"]
    both = report["kept_out"] is True and report["holds"] and not got_in
    far = "the job ran on this host, so nothing is known about others" if alone else "each side sees the other's"
    detail = f" ({report['kept_out']})" if isinstance(report["kept_out"], str) else ""
    wrong = f"{kind} is not carried between {socket.gethostname()} and {report['host']}{detail}"
    return Check(f"{what}, locks", both, f"{kind}: {far}" if both else f"{wrong}; {USE_LEASES}")
