"""The one sentence that tells a text-conditioned diffusion model what to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SUBJECT = "chest radiograph"
NOTHING = "no finding"


def prompt_for(class_names: Sequence[str], labels: Iterable[float | bool]) -> str:
    """Return e.g. ``chest radiograph, cardiomegaly, fracture`` for the classes whose label is set.

    A label counts where it is above one half; NaN (unknown) and 0 do not.

    Example:
        >>> prompt_for(("Cardiomegaly", "Fracture"), (1, 0))
        'chest radiograph, cardiomegaly'
        >>> prompt_for(("Cardiomegaly", "Fracture"), (0, 0))
        'chest radiograph, no finding'
    """
    named = [n.lower() for n, label in zip(class_names, labels, strict=True) if label > 0.5]
    return ", ".join([SUBJECT, *(named or [NOTHING])])
