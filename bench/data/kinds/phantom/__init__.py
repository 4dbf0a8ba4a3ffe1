"""A procedural chest radiograph with ten findings whose truth is known."""

from bench.data.kinds.phantom.dataset import Phantom
from bench.data.kinds.phantom.labels import Facts, facts
from bench.data.kinds.phantom.render import Rendered, render
from bench.data.kinds.phantom.settings import CLASS_NAMES, HEAD, PREVALENCES, TAIL, PhantomSettings

__all__ = [
    "CLASS_NAMES",
    "HEAD",
    "PREVALENCES",
    "TAIL",
    "Facts",
    "Phantom",
    "PhantomSettings",
    "Rendered",
    "facts",
    "render",
]
