"""The prompt: the sentence that tells a text-conditioned diffusion model what to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, field_validator

from bench.errors import ConfigError, listed, nearest
from bench.pipeline.settings import Settings

SUBJECT = "chest radiograph"
NOTHING = "no finding"
_FINDINGS = "{findings}"


class PromptTemplate(Settings):
    """How labels become a sentence. A model only follows words that it was trained on, so each may need its own.

    Example:
        >>> report = PromptTemplate(template="{findings}.", separator=" and ", words={"Fracture": "rib fracture"})
        >>> report.of(("Cardiomegaly", "Fracture"), (1, 1))
        'cardiomegaly and rib fracture.'
    """

    template: str = Field(f"{SUBJECT}, {_FINDINGS}", description="{findings} is replaced by the names of the findings")
    nothing: str = Field(NOTHING, description="used as the findings if no label is set")
    separator: str = Field(", ", description="text between two names")
    case: Literal["lower", "as_is"] = Field(
        "lower", description="lower: class names are written in lower case; underscores are spaces"
    )
    words: dict[str, str] = Field({}, description="class name → text to use instead of the name, as written")

    @field_validator("template")
    @classmethod
    def _has_findings(cls, template: str) -> str:
        if template.count(_FINDINGS) != 1:
            raise ValueError(f"want {_FINDINGS} in it once, got {template!r}")
        return template

    def of(self, class_names: Sequence[str], labels: Iterable[float | bool]) -> str:
        """Return the sentence for the classes whose label is above 0.5. NaN (unknown) counts as not set.

        Raises:
            ConfigError: if `words` names a class that the data set does not have.
        """
        self.check(class_names)
        named = [self._called(n) for n, label in zip(class_names, labels, strict=True) if label > 0.5]
        return self.template.replace(_FINDINGS, self.separator.join(named or [self.nothing]))

    def check(self, class_names: Sequence[str]) -> None:
        """Check that the data set has every class in `words`.

        Raises:
            ConfigError: if it lacks one. The message gives the nearest valid name.
        """
        for name in self.words:
            if name not in class_names:
                hint, have = nearest(name, class_names), listed(class_names)
                raise ConfigError(f"diffusion.prompt.words: no class '{name}' in the data set{hint} (have: {have})")

    def _called(self, name: str) -> str:
        return self.words.get(name) or in_words(name, self.case)


def in_words(class_name: str, case: Literal["lower", "as_is"] = "lower") -> str:
    """Return the words that a prompt has for a class: no underscores, which no model has learnt, and one space each.

    Example:
        >>> in_words("Pleural_Thickening")
        'pleural thickening'
    """
    words = " ".join(class_name.replace("_", " ").split())
    return words.lower() if case == "lower" else words


def prompt_for(class_names: Sequence[str], labels: Iterable[float | bool]) -> str:
    """Return the sentence of the default template, e.g. ``chest radiograph, cardiomegaly, fracture``.

    Example:
        >>> prompt_for(("Cardiomegaly", "Fracture"), (1, 0))
        'chest radiograph, cardiomegaly'
        >>> prompt_for(("Cardiomegaly", "Fracture"), (0, 0))
        'chest radiograph, no finding'
    """
    return PromptTemplate().of(class_names, labels)
