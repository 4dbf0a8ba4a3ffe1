"""Tells before a run which words of the prompts a diffusion model does not know, and which prompts are too long."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.diffusion.model import DiffusionModel
from bench.errors import ConfigError, in_words, listed
from bench.tables import Float32

AFFECTS_RESULTS = False

_WORD = re.compile(r"[^\W\d_]{4,}")


def notes_on_prompts(model: DiffusionModel, class_names: Sequence[str], labels: Float32 | None) -> Iterator[str]:
    """Yield what should be known of the prompts for a data set, in sentences; nothing if all is well.

    Args:
        model: gives the prompts and the tokenizer; its weights are not read.
        class_names: the classes of the data set.
        labels: `float32 [n, C]`, those of every image; None if they are not known yet. Then each class stands alone.
    """
    known = np.eye(len(class_names)) if labels is None else np.nan_to_num(labels)
    rows, counts = np.unique(known > 0.5, axis=0, return_counts=True)
    prompts = [model.prompt.of(class_names, row) for row in rows]
    tokenizer, limit = _tokenizer(model.path)
    alone = [model.prompt.of(class_names, row) for row in np.eye(len(class_names))]
    words = {word for text in (*prompts, *alone) for word in _WORD.findall(text)}
    if broken := [word for word in words if len(word) < 2 * len(tokenizer.tokenize(word))]:
        yield (
            f"the tokenizer of the model breaks words into letters: {listed(broken)}; it has hardly seen them, so say "
            "them in words that it knows (diffusion.prompt.words), or train a model on these classes "
            "(bench pretrain diffusion)"
        )
    ids = tokenizer(prompts, verbose=False).input_ids
    if long := [i for i, tokens in enumerate(ids) if len(tokens) > limit]:
        lost = tokenizer.decode(max(ids, key=len)[limit - 1 : -1])
        of = "classes" if labels is None else "images"
        yield (
            f"{counts[long].sum():,} of {counts.sum():,} {of} have a prompt longer than the {limit} tokens that the "
            f"model reads; the longest loses '{lost}'; shorten diffusion.prompt (template, separator or words)"
        )


def _tokenizer(path: Path) -> tuple[Any, int]:
    """Return the tokenizer of a folder, and how many tokens the text encoder takes.

    Raises:
        ConfigError: if the tokenizer cannot be read.
    """
    import transformers

    try:
        kind = json.loads((path / "model_index.json").read_text(encoding="utf-8"))["tokenizer"][1]
        tokenizer = getattr(transformers, kind).from_pretrained(str(path / "tokenizer"), local_files_only=True)
        encoder = json.loads((path / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    except Exception as error:  # the library raises many kinds of errors for a damaged file
        raise ConfigError(
            f"diffusion.folder: {path / 'tokenizer'} cannot be read, download it again ({in_words(error)[:200]})"
        ) from error
    return tokenizer, min(tokenizer.model_max_length, encoder.get("max_position_embeddings", 77))
