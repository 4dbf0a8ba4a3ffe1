"""The phantom: chest radiographs drawn by a program, with ten findings whose true labels and masks are known.

`settings` says what is drawn, `labels` decides who has which finding, `anatomy` and `chest` draw a healthy chest,
`head_findings` and `tail_findings` draw the findings, and `render` puts one image together. `dataset` makes a data set
of them. Read them in this order. Unlike in most packages, the names below are imported here: `Phantom` because this is
how a kind of data set is found, and the others for tests and for the training of the shipped networks.
"""

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
