"""The benchmark of GPUs: it runs without one, keeps its time, and gives reasons where it measures nothing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.errors import StageError
from benchmarks import gpu, gpu_child
from benchmarks.gpu_clock import Enough, Laps, LeftOut, Row, Slice, markdown, measured, refuse_precision, repeated
from benchmarks.gpu_diffusion import STABLE_DIFFUSION, Asked, SeenFit, random_diffusion
from benchmarks.gpu_subjects import TINY

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def from_now(seconds):
    return Slice(time.monotonic() + seconds)


def test_all_that_needs_no_other_process_runs_at_tiny_sizes(capsys):
    parts = [name for name in gpu.BLOCKS if name != "jobs"]
    # The time is ample, for a machine under load. The tiny sizes take seconds.
    assert gpu.main(["--device", "cpu", "--json", "--minutes", "90", "--only", *parts]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gpu"] == {"name": "none"}
    assert "say nothing about a GPU" in told["sizes"]
    rows = {row["name"]: row for row in told["figures"]}
    for name, row in rows.items():
        only_on_a_gpu = "_on_gpu" in name or "cudnn" in name or "torch.compile" in name
        assert (row["n"] == 0) == only_on_a_gpu, name
        if only_on_a_gpu:
            assert row["remark"].startswith("left out: ")
        else:
            assert row["n"] >= 3 or name == "building the diffusion model"
            assert 0 < row["low"] <= row["value"] <= row["high"]
        assert (row["peak_mib"], row["failed"]) == (None, False)
    for batch in TINY.batches:
        assert f"training, resnet18 at 32 px, batch {batch}, float32" in rows
    for precision in ("float16", "bfloat16"):
        for what in ("denoising, d = 1 of 4, with guidance", "denoising, d = 4 of 4, with guidance", "decoding"):
            assert rows[f"{what}, 16 px, batch 2, {precision}"]["unit"] == "s/image"
        assert rows[f"saliency by prompt, 16 px, batch 2, {precision}"]["unit"] == "images/s"


@pytest.mark.long
def test_jobs_at_once_are_processes_of_their_own_and_are_added_up(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "TINY", replace(TINY, jobs=(2,)))
    assert gpu.main(["--device", "cpu", "--json", "--minutes", "90", "--only", "jobs"]) == 0
    [row] = json.loads(capsys.readouterr().out)["figures"]
    assert row["name"].startswith("2 jobs at once")
    assert (row["n"], row["remark"]) == (3, "all together")
    assert row["low"] > 0


@pytest.mark.long
def test_a_process_that_takes_too_long_is_ended_and_one_that_fails_tells_its_last_line():
    wrong = {"device": "cuda:99", "batch": 2, "window_s": 0.1, "n": 4, "px": 32, "architecture": "resnet18"}

    def ended(seconds):
        with gpu_child.children("job", 1, from_now(seconds), wrong) as (process,):
            gpu_child.result_of(process)

    with pytest.raises(LeftOut, match=r"it ended with an error: .*(NVIDIA|CUDA)"):
        ended(120)
    began = time.monotonic()
    with pytest.raises(LeftOut, match="did not end in the 0 s"):
        ended(0.2)
    assert time.monotonic() - began < 30


def test_the_diffusion_model_has_the_parameters_of_stable_diffusion_2_1():
    pipeline = random_diffusion(STABLE_DIFFUSION, "meta").pipeline
    count = {
        part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in ("unet", "vae", "text_encoder")
    }
    assert count == {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
    assert (pipeline.vae_scale_factor, pipeline.tokenizer.model_max_length) == (8, 77)


@pytest.mark.parametrize(
    ("error", "remark", "failed"),
    [
        (LeftOut("left out: no time"), "left out: no time", False),
        (NO_MEMORY, "does not fit into memory: CUDA out of memory", False),
        (StageError("diffusion: denoising one image takes more memory"), "StageError: diffusion: denoising", False),
        (RuntimeError("no kernel\nfor this card"), "RuntimeError: no kernel for this card", True),
    ],
)
def test_an_error_is_a_row_with_its_reason(capsys, error, remark, failed):
    def measure():
        raise error

    row = measured("steps", "s", "cpu", measure)
    assert row.remark.startswith(remark)
    assert (row.values, row.failed) == ((), failed)
    assert gpu.report([Row("walk", "s", [1.0]), row], as_json=False, gpu={"name": "none"}) == int(failed)
    shown = capsys.readouterr().out
    assert f"| steps | – |  | 0 |  | {row.remark} |" in shown
    assert "- gpu: name none" in shown


def test_a_part_that_fails_as_a_whole_or_is_interrupted_loses_no_other(monkeypatch, capsys):
    def fails(sizes, device, part):
        yield Row("a", "s", [1.0])
        raise RuntimeError("broken card")

    def stopped(sizes, device, part):
        yield Row("b", "s", [2.0])
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "BLOCKS", {"x": (fails, 1.0), "y": (stopped, 1.0), "z": (fails, 1.0)})
    assert gpu.main(["--device", "cpu", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["figures"]
    assert [(row["name"], row["value"]) for row in rows] == [("a", 1.0), ("x", None), ("b", 2.0), ("the rest", None)]
    assert [row["remark"] for row in rows[1::2]] == ["RuntimeError: broken card", "left out: interrupted"]


def test_the_table_is_markdown_with_median_spread_and_n():
    row = Row("a | b", "images/s", [3.0, 1.0, 9.0], peak_mib=2048.4, remark="in halves")
    assert markdown([row]).splitlines()[2] == "| a \\| b | 3 images/s | 1 to 9 | 3 | 2,048 | in halves |"


def test_time_that_a_part_leaves_goes_to_the_later_ones():
    lengths = [part.left for part in from_now(100).parts([1.0, 1.0, 2.0])]  # nobody takes any
    assert lengths == pytest.approx([25, 100 / 3, 100], abs=1)


def test_runs_that_do_not_fit_into_the_time_are_left_out():
    with pytest.raises(LeftOut, match="3 runs of 5 s do not fit into the 9 s that are left"):
        repeated(lambda: None, "cpu", from_now(9.0), expected=5.0)
    calls = []
    with pytest.raises(LeftOut, match="no time is left"):
        repeated(lambda: calls.append(1), "cpu", from_now(0))
    assert calls == []
    assert len(repeated(lambda: calls.append(1), "cpu", from_now(10), most=7)) == 7
    assert len(calls) == 8


def test_steps_are_timed_by_kind_until_there_are_enough():
    laps = Laps(from_now(60), most=3, skip=1, kinds=("one", "two"))
    notes = ["one"] * 5 + ["two"] * 9

    def train():
        for i, note in enumerate(notes):
            laps(i, len(notes), f"generation 1/2, {note}")

    with pytest.raises(Enough):
        train()
    assert (len(laps.counted("one")), len(laps.counted("two"))) == (4, 3)


def test_a_training_without_time_is_not_begun(capsys):
    assert gpu.main(["--device", "cpu", "--minutes", "1e-9", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["figures"]:
        assert (row["n"], row["failed"]) == (0, False)
        assert row["remark"].startswith("left out: ")


def test_steps_that_take_too_long_are_left_out():
    late = Laps(from_now(0), most=3)
    with pytest.raises(Enough):
        late(1, 9, "train")
    with pytest.raises(LeftOut, match=r"1 steps ran in its time, the last took .* 5 are needed"):
        late.counted()


def test_pieces_that_fit_into_memory_are_remarked():
    fit = SeenFit()

    def compute(rows):
        if rows.stop - rows.start > 3:
            raise NO_MEMORY
        return rows

    fit.run("decoding", 16, compute)
    assert fit.remark("decoding", 16) == "2 at once: 4 do not fit into memory"
    assert fit.run("denoising", 3, compute) == [slice(0, 3)]
    assert fit.remark("denoising", 3) == ""


def test_a_codec_that_does_not_fit_is_measured_with_half_the_batch(monkeypatch):
    made = gpu.codec_learning

    def with_little_memory(settings, *rest):
        if settings.batch_size > 2:
            raise NO_MEMORY
        return made(settings, *rest)

    monkeypatch.setattr(gpu, "codec_learning", with_little_memory)
    rows = gpu.of_codec(replace(TINY, latents=13), "cpu", from_now(3000))
    first, second = next(rows), next(rows)
    assert first.remark == "a batch of 2: 4 latents do not fit into memory"
    assert min(len(first.values), len(second.values)) >= 3


def test_long_schedules_take_a_batch_for_which_the_time_suffices():
    def denoise(latents, prompts, noise, steps, schedule, guidance):
        assert len(latents) == len(prompts) == len(noise)
        fit.run("denoising", len(latents), lambda rows: time.sleep(0.005 * steps * len(latents)))

    fit = SeenFit()
    model = SimpleNamespace(device="cpu", fit=fit, ready=lambda precision: SimpleNamespace(denoise=denoise))
    asked = Asked(model, "float16", n=8, latent_px=2, denoise_steps=(1, 20), schedule=20)
    values, remark = asked.denoising(20, from_now(1.2))
    assert 3 <= len(values) <= 5
    assert np.median(values) >= 0.1
    batch = int(remark.split()[3].rstrip(":"))
    assert batch in (1, 2)
    assert remark == f"a batch of {batch}: 3 runs with {2 * batch} do not fit into the time"
    with pytest.raises(LeftOut, match="do not fit into the"):
        asked.denoising(20, from_now(0.1))


def test_precisions_that_mean_nothing_here_are_left_out():
    refuse_precision("bfloat16", "cpu")  # a CPU computes it
    for precision in ("tf32_on_gpu", "bfloat16_on_gpu"):
        with pytest.raises(LeftOut, match="the same as float32"):
            refuse_precision(precision, "cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0"], "--minutes 0: want more than 0"),
        (["--device", "mps"], "--device mps: want auto, cpu, cuda"),
        (["--device", "cuda:99"], "--device cuda:99: torch sees"),
        (["--only", "codecs"], "invalid choice: 'codecs'"),
    ],
)
def test_wrong_options_are_refused(capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        gpu.main(options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
