"""What does a GPU do with the package's own work? Images per second, seconds an image and peak memory, in 8 minutes.

It measures training steps, evaluation, the codec, several jobs at once, and the diffusion model at the size of Stable
Diffusion 2.1, by the functions that the stages call. Pictures, latents and weights are random: speed does not depend on
them. A bare PyTorch variant stands beside some figures as a peer. What does not fit into the time or the memory is a
row with the reason. Without a GPU the same code runs at tiny sizes, which says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.classifier import networks
from bench.doctor.machine import device_fault
from bench.store.work import Execution
from benchmarks import common
from benchmarks.gpu_child import children, result_of
from benchmarks.gpu_clock import (
    LEAST,
    Laps,
    LeftOut,
    Row,
    Slice,
    clean,
    markdown,
    measured,
    one_line,
    refuse_precision,
    repeated,
    seconds_of,
)
from benchmarks.gpu_diffusion import CLASSES, Asked, RandomDiffusion, random_diffusion
from benchmarks.gpu_subjects import (
    FULL,
    TINY,
    Sizes,
    codec_learning,
    latent_table,
    pictures,
    run_until_enough,
    training,
)

PRECISIONS = ("float32", "tf32_on_gpu", "bfloat16_on_gpu")
_RESERVE = 0.05  # share of the time for what takes longer than foretold
_COMPILES_S = 30.0  # A compilation of such a network and the start of its process take longer.
Values = tuple[list[float], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. The exit code is 1 if something failed that is neither a lack of memory nor of time."""
    given = asked_for(arguments)
    device = Execution(device=given.device).apply()
    on_gpu = device.startswith("cuda")
    tiny = given.tiny or not on_gpu
    if ":" in device:
        torch.cuda.set_device(device)
    # It also loads the libraries of the card, which takes seconds.
    if fault := device_fault(device, "float32"):
        raise SystemExit(f"{fault}; `bench doctor` says more")
    facts = {"gpu": card(device), "sizes": said_of(tiny, on_gpu), "minutes": given.minutes}
    chosen = [name for name in BLOCKS if name in given.only]
    whole = Slice(time.monotonic() + 60 * given.minutes * (1 - _RESERVE))
    rows: list[Row] = []
    try:
        for name, part in zip(chosen, whole.parts([BLOCKS[name][1] for name in chosen]), strict=True):
            common.say(f"{name}: up to {part.left:.0f} s")
            for row in rows_of(name, TINY if tiny else FULL, device, part):
                common.say(f"  {': '.join(filter(None, row.cells()[:2]))} {row.remark}".rstrip())
                rows.append(row)
    except KeyboardInterrupt:
        rows.append(Row("the rest", remark="left out: interrupted"))
    return report(rows, given.json, **facts)


def rows_of(name: str, sizes: Sizes, device: str, part: Slice) -> Iterator[Row]:
    """Yield the rows of a part. If it cannot even prepare what it measures, the last row says so."""
    try:
        yield from BLOCKS[name][0](sizes, device, part)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        yield Row(name, remark=f"{type(error).__name__}: {one_line(error)}", failed=True)


def asked_for(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options. Wrong ones end the program with exit code 2."""
    parser = common.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="most time that it takes [8]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 [auto]")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the program; a CPU always has them")
    parser.add_argument(
        "--only", nargs="+", choices=BLOCKS, default=list(BLOCKS), metavar="PART", help=f"of {', '.join(BLOCKS)} [all]"
    )
    given = parser.parse_args(arguments)
    if not 0 < given.minutes < float("inf"):
        parser.error(f"--minutes {given.minutes:g}: want more than 0")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", given.device):
        parser.error(f"--device {given.device}: want auto, cpu, cuda, or cuda:1 for the second card")
    if given.device.startswith("cuda") and int(given.device[5:] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {given.device}: torch sees {torch.cuda.device_count()} cards; `bench doctor` says why")
    return given


def report(rows: Sequence[Row], as_json: bool, **facts: Any) -> int:
    """Print the rows as a Markdown table or as JSON, with the machine and other facts, and return the exit code."""
    around = {"machine": common.machine(), **facts}
    if as_json:
        print(json.dumps(around | {"figures": [row.data() for row in rows]}, indent=1))
    else:
        print(markdown(rows) + "\n")
        for name, value in around.items():
            said = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"- {name}: {said}")
    return int(any(row.failed for row in rows))


def said_of(tiny: bool, on_gpu: bool) -> str:
    """Return in words at which sizes was measured."""
    if not tiny:
        return "full"
    where = "" if on_gpu else ", because no GPU is used"
    return f"tiny{where}; these figures only show that the program runs and say nothing about a GPU"


def card(device: str) -> dict[str, Any]:
    """Return name, driver and memory of the GPU, and the versions that torch was built with."""
    if not device.startswith("cuda"):
        return {"name": "none"}
    facts, (free, _) = torch.cuda.get_device_properties(device), torch.cuda.mem_get_info(device)
    return {
        "name": facts.name,
        "driver": _driver(),
        "memory_mib": facts.total_memory >> 20,
        "free_mib": free >> 20,  # at the start: what is missing is of other processes
        "cards": torch.cuda.device_count(),
        "cuda": torch.version.cuda or f"ROCm {torch.version.hip}",
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown (no nvidia-smi)"


def of_training(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield images/s of training steps, by precision and batch, and of what comes before a step."""
    cases = [(precision, batch) for batch in sizes.batches for precision in PRECISIONS]
    parts = whole.parts([1.0] * (len(cases) + 2))
    for (precision, batch), part in zip(cases, parts, strict=False):
        name = f"training, {sizes.classifier} at {sizes.image_px} px, batch {batch}, {precision}"
        yield measured(name, "images/s", device, partial(training_speed, sizes, device, part, precision, batch))
    batch = sizes.batches[0]
    name = f"peer: training, batch {batch}, float32, with cudnn.benchmark"
    yield measured(name, "images/s", device, partial(with_cudnn_benchmark, sizes, device, next(parts), batch))

    def prepared() -> Values:
        images, _ = pictures(sizes.n_pictures, sizes.pictures_px)
        rows, part = np.random.default_rng(0).permutation(len(images))[:batch], next(parts)
        taken = repeated(lambda: networks.to_input(images[rows], sizes.image_px, device), device, part, most=sizes.most)
        return [batch / s for s in taken], "a training step includes it"

    yield measured(f"reading, copying and resizing a batch of {batch}", "images/s", device, prepared)


def training_speed(sizes: Sizes, device: str, part: Slice, precision: Any, batch: int) -> Values:
    """Return the images/s of each training step."""
    refuse_precision(precision, device)
    part.check()
    subject = training(
        sizes.classifier, sizes.n_pictures, sizes.pictures_px, batch, device,
        image_px=sizes.image_px, precision=precision,
    )  # fmt: skip
    laps = Laps(part, most=sizes.most)
    run_until_enough(subject, laps)
    return [batch / s for s in laps.counted()], ""


def with_cudnn_benchmark(sizes: Sizes, device: str, part: Slice, batch: int) -> Values:
    """Return what `training_speed` does, while cuDNN tries its algorithms and takes the fastest."""
    if not device.startswith("cuda"):
        raise LeftOut("left out: a CPU has no cuDNN")
    torch.backends.cudnn.benchmark = True
    try:
        return training_speed(sizes, device, part, "float32", batch)
    finally:
        torch.backends.cudnn.benchmark = False


def of_evaluation(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield images/s of evaluating a classifier, with all that belongs to it and the network alone."""
    images, _ = pictures(sizes.n_pictures, sizes.pictures_px)
    parts = whole.parts([2.0, 1.0])

    def built() -> torch.nn.Module:
        return networks.build(sizes.classifier, len(CLASSES), seed=0).to(device).eval()

    def evaluated() -> Values:
        network = built()
        run = partial(networks.in_batches, network, images, sizes.image_px, device)
        return [len(images) / s for s in repeated(run, device, next(parts))], "float32, as evaluation always is"

    def alone() -> Values:
        network = built()
        batch = networks.to_input(images[:64], sizes.image_px, device)
        with torch.inference_mode():
            taken = repeated(partial(network, batch), device, next(parts), most=sizes.most)
        return [len(batch) / s for s in taken], "a batch that is on the device already"

    name = f"evaluation, {sizes.classifier} at {sizes.image_px} px"
    yield measured(name, "images/s", device, evaluated)
    yield measured(f"peer: {name}, the network alone", "images/s", device, alone)


def of_codec(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield the seconds of a codec's steps. The batch is halved until it fits into memory."""
    laps: list[Laps] = []
    wanted, parts = sizes.codec.batch_size, whole.parts([4.0, 1.0, 1.0, 1.0])

    def interaction() -> Values:
        batch, part = wanted, next(parts)
        while (found := codec_laps(sizes, device, part, batch)) is None:
            if batch == 1:
                raise LeftOut("one latent does not fit into memory either")
            batch //= 2
        laps.append(found)
        fits = "" if batch == wanted else f"a batch of {batch}: {2 * batch} latents do not fit into memory"
        return found.counted("interaction"), fits

    def imitation() -> Values:
        if not laps:
            raise LeftOut("left out: see the row above")
        return laps[0].counted("imitation"), "in the same run as the row above"

    name = f"a codec step, batch {wanted}, latents of {sizes.latent_px} x {sizes.latent_px}"
    yield measured(f"{name}, interaction", "s", device, interaction)
    yield replace(measured(f"{name}, imitation", "s", device, imitation), peak_mib=None)
    for fused in (False, True):
        kind = "fused" if fused else "not fused, as the codec has it"
        yield measured(
            f"peer: AdamW on a codec, {kind}", "s", device, partial(adamw, sizes, device, next(parts), fused)
        )
    draw = partial(latent_table(2, sizes.latent_px).sample, np.zeros(wanted, np.int64), 0)
    part = next(parts)
    yield measured(
        f"drawing {wanted} latents", "s", "cpu", lambda: (repeated(draw, "cpu", part), "during the step before")
    )


def codec_laps(sizes: Sizes, device: str, part: Slice, batch: int) -> Laps | None:
    """Return the timed steps of a codec's training, or None if memory runs out."""
    part.check()
    settings = sizes.codec.model_copy(update={"batch_size": batch})
    laps = Laps(part, most=max(LEAST, sizes.most // 2), kinds=("interaction", "imitation"))
    with contextlib.suppress(torch.OutOfMemoryError):
        run_until_enough(codec_learning(settings, sizes.latents, sizes.latent_px, device), laps)
        return laps
    clean(device)
    return None


def adamw(sizes: Sizes, device: str, part: Slice, fused: bool) -> Values:
    """Return the seconds of a step of the optimiser alone."""
    parameters = list(codec_learning(sizes.codec, 2, sizes.latent_px, device).networks.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser = torch.optim.AdamW(parameters, fused=fused)
    return repeated(optimiser.step, device, part, most=sizes.most), f"{sum(p.numel() for p in parameters):,} parameters"


def of_jobs(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield the images/s of 1, 2 and more trainings at once, all together."""
    settings = {"device": device, "batch": 32, "window_s": sizes.job_s, "n": 256, "px": sizes.job_px}
    settings["architecture"] = sizes.job
    taken: list[float] = [0.0]

    def at_once(n: int) -> tuple[list[float], str]:
        whole.check()
        # Starting takes the longest, and several start side by side.
        if (foretold := 1.5 * taken[-1]) > whole.left:
            raise LeftOut(f"left out: it would take about {foretold:.0f} s, {whole.left:.0f} s are left")
        began = time.monotonic()
        with children("job", n, whole, settings) as processes:
            for process in processes:
                if process.stdout is None or process.stdout.readline().strip() != "ready":
                    result_of(process)
                    raise LeftOut("it ended before it began")
            for process in processes:
                print(file=process.stdin, flush=True)
            found = [result_of(process) for process in processes]
        taken.append(time.monotonic() - began)
        peaks = [f["peak_mib"] for f in found if f["peak_mib"] is not None]
        total = [sum(rates) for rates in zip(*(f["values"] for f in found), strict=True)]
        return total, f"all together; {sum(peaks):,.0f} MiB at the peak" if peaks else "all together"

    for n in sizes.jobs:
        name = f"{n} {'job' if n == 1 else 'jobs'} at once, each training {sizes.job} at {sizes.job_px} px, batch 32"
        yield replace(measured(name, "images/s", device, partial(at_once, n)), peak_mib=None)


def of_diffusion(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield the seconds an image of denoising and decoding, and the images/s of saliency by prompt."""
    made: list[RandomDiffusion] = []

    def build() -> Values:
        whole.check()
        seconds = seconds_of(lambda: made.append(random_diffusion(sizes.parts, device)), device)
        return [seconds], "random weights" + (", in the shapes of Stable Diffusion 2.1 base" if sizes is FULL else "")

    yield measured("building the diffusion model", "s", device, build)
    for precision, part in zip(("float16", "bfloat16") if made else (), whole.parts([1.0, 1.0]), strict=False):
        asked = Asked(made[0], precision, sizes.at_once, sizes.latent_px, sizes.denoise_steps, sizes.schedule)
        yield from asked.rows(part)


def of_compiled(sizes: Sizes, device: str, whole: Slice) -> Iterator[Row]:
    """Yield images/s of training steps with torch.compile, each in a process of its own that is ended in time."""

    def speed(precision: str, batch: int, part: Slice) -> Values:
        if not device.startswith("cuda"):
            raise LeftOut("left out: compiling for a CPU says nothing about a GPU")
        refuse_precision(precision, device)
        if part.left < _COMPILES_S:
            raise LeftOut(f"left out: {part.left:.0f} s are left, and a compilation takes longer")
        settings = {"architecture": sizes.classifier, "n": sizes.n_pictures, "px": sizes.pictures_px, "batch": batch}
        settings |= {"device": device, "precision": precision, "image_px": sizes.image_px, "until": part.until - 5}
        with children("compiled", 1, part, settings) as (process,):
            found = result_of(process)
        return found["values"], f"{found['peak_mib']:,.0f} MiB at the peak"

    # The precision of the shipped matrix `paper` comes first, for a compilation takes minutes.
    cases = [(precision, batch) for batch in sizes.batches for precision in reversed(PRECISIONS)]
    for precision, batch in cases:
        name = f"peer: training with torch.compile, batch {batch}, {precision}"
        yield replace(measured(name, "images/s", device, partial(speed, precision, batch, whole)), peak_mib=None)


# Each part with its share of the time. What a part does not need goes to the later ones.
BLOCKS: dict[str, tuple[Callable[[Sizes, str, Slice], Iterator[Row]], float]] = {
    "training": (of_training, 2.0),
    "evaluation": (of_evaluation, 0.5),
    "codec": (of_codec, 1.0),
    "jobs": (of_jobs, 1.5),
    "diffusion": (of_diffusion, 5.0),
    "compiled": (of_compiled, 2.0),
}


if __name__ == "__main__":
    sys.exit(main())
