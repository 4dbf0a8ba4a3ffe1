"""A CLIP tokenizer with its own small vocabulary, in which every word of the prompts is one piece."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from bench.diffusion.prompts import prompt_for

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def byte_letters() -> list[str]:
    """Return the letters with which byte-level BPE writes the 256 bytes."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return the merges of byte-pair encoding after which every word is a single piece."""
    split = {w: (*w[:-1], w[-1] + WORD_END) for w in sorted(set(words)) if w}
    merges: list[tuple[str, str]] = []
    while any(len(pieces) > 1 for pieces in split.values()):
        pairs = Counter(pair for p in split.values() for pair in pairwise(p))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(pieces, best) for word, pieces in split.items()}
    return merges


def _merge(pieces: Sequence[str], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def prompt_words(class_names: Sequence[str]) -> list[str]:
    """Return the words that a prompt over these classes may use, letters and signs apart."""
    text = prompt_for(class_names, [1] * len(class_names)) + " " + prompt_for(class_names, [0] * len(class_names))
    return sorted(set(re.findall(r"[^\W\d_]+|\d|(?:[^\s\w]|_)+", text.lower())))


def build_tokenizer(class_names: Sequence[str], folder: Path) -> CLIPTokenizer:
    """Write `vocab.json` and `merges.txt` to `folder` and return the tokenizer read from them.

    An unknown word falls into letters, never into an error: all 256 bytes are pieces.
    """
    from transformers import CLIPTokenizer

    letters = byte_letters()
    merges = learn_merges(w for w in prompt_words(class_names) if all(ch in letters for ch in w))
    pieces = [*letters, *(ch + WORD_END for ch in letters), *(a + b for a, b in merges), START, END]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in merges)]) + "\n")
    longest = 4 + len(prompt_for(class_names, [1] * len(class_names)).replace(",", " ,").split())
    length = min(77, max(longest, 16))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)
