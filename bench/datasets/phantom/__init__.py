"""A procedural chest radiograph with ten findings whose truth is known."""

from bench.datasets.phantom.dataset import Phantom
from bench.datasets.phantom.labels import Facts, facts
from bench.datasets.phantom.render import Rendered, render
from bench.datasets.phantom.settings import CLASS_NAMES, HEAD, PREVALENCES, TAIL, PhantomSettings

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
