"""A matrix that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import ConfigError, listed, nearest
from bench.matrix.cell import Cell
from bench.matrix.settings import MatrixSettings


@dataclass(frozen=True)
class Matrix:
    """A matrix file's checked settings, and the cells that they describe."""

    settings: MatrixSettings
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The matrix's name."""
        return self.settings.name

    def cell(self, name: str) -> Cell:
        """Return the cell with this full name, or the only cell whose name contains it.

        Raises:
            ConfigError: if no cell's name contains it, or several do.
        """
        names = [c.name for c in self.cells]
        hits = [c for c in self.cells if c.name == name] or [c for c in self.cells if name in c.name]
        if len(hits) == 1:
            return hits[0]
        if hits:
            said = f"'{name}' is in {len(hits)} cells: {listed(c.name for c in hits)}; give more of the name"
        else:
            said = f"no cell '{name}'{nearest(name, [*names, *(c.label for c in self.cells)])} (cells: {listed(names)})"
        raise ConfigError(f"matrix {self.name}: {said}")
