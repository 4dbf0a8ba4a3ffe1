"""What a sweep varies: the values that one setting may take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.config.validation import shown
from bench.pipeline.settings import Settings

Scalar = bool | int | float | str


class IntRange(Settings):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        _check_range(self)
        return self

    def holds(self, value: Scalar) -> bool:
        """Tell whether `value` is one of the numbers."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def ends(self) -> list[Scalar]:
        """Return the values that show whether the setting accepts the range."""
        return [self.low, self.high]

    def n_grid(self) -> int:
        """Return the number of values."""
        return (self.high - self.low) // self.step + 1

    def grid(self) -> list[Scalar]:
        """Return every value."""
        return list(range(self.low, self.high + 1, self.step))


class FloatRange(Settings):
    """Numbers from `low` to `high`, both included."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        _check_range(self)
        return self

    def holds(self, value: Scalar) -> bool:
        """Tell whether `value` is one of the numbers."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def ends(self) -> list[Scalar]:
        """Return the values that show whether the setting accepts the range."""
        return [self.low, self.high]

    def n_grid(self) -> int:
        """Return the number of values; 0 if there is no step."""
        return int((self.high - self.low) / self.step + 1e-8) + 1 if self.step else 0

    def grid(self) -> list[Scalar]:
        """Return every value; none if there is no step."""
        return [self.low + i * (self.step or 0.0) for i in range(self.n_grid())]


class Choices(Settings):
    """A few values without an order."""

    type: Literal["categorical"]
    choices: list[Scalar] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        for i, choice in enumerate(self.choices):
            if choice in self.choices[:i]:
                raise ValueError(f"the choice {shown(choice)} is there twice; give it once")
        return self

    def holds(self, value: Scalar) -> bool:
        """Tell whether `value` is one of the choices."""
        return value in self.choices

    def ends(self) -> list[Scalar]:
        """Return the values that show whether the setting accepts the choices."""
        return list(self.choices)

    def n_grid(self) -> int:
        """Return the number of values."""
        return len(self.choices)

    def grid(self) -> list[Scalar]:
        """Return every value."""
        return list(self.choices)


Dimension = Annotated[IntRange | FloatRange | Choices, Field(discriminator="type")]


def _check_range(dimension: IntRange | FloatRange) -> None:
    if dimension.low > dimension.high:
        raise ValueError(f"low {dimension.low} is above high {dimension.high}")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"log needs low above 0, got {dimension.low}")
    if dimension.log and dimension.step not in (None, 1):
        raise ValueError("log and step exclude each other; give one of them")
