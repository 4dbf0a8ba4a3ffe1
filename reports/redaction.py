"""The input of a report: all results for a local report, or the part that may be passed on (`bench.privacy.border`)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BorderError
from bench.matrix.resolved import resolved
from bench.privacy.border import aggregates, is_open
from bench.privacy.names import is_name, is_plain, places, plain_words, reduced, stand_ins, without_paths

if TYPE_CHECKING:
    from bench.matrix.cell import Cell
    from bench.matrix.matrix import Matrix
    from bench.matrix.settings import MatrixSettings
    from bench.matrix.study import Study
    from bench.results.cells import CellResult
    from bench.store.store import Store

_NOT_SAID = "the reason is withheld: it may tell of the data"
_SHORTEST_SECRET = 6  # letters; a shorter path can be part of any text
_LONGEST_WORD = 24  # letters; a longer message is not a word that the report itself uses


@dataclass(frozen=True)
class ReportInput:
    """The input of a report: all results for a local report, or the part that may be passed on.

    Attributes:
        matrix, results: all that the tables, texts and figures may read of the settings and results.
        for_sharing: whether the report may be passed on.
        originals: the results as they were read, by which stages are found in the store.
        hidden: labels of the data sets of which something is not open.
        credentialed: those of them that are not open themselves. On the others, synthetic images alone may not leave,
            since a credentialed diffusion model made them.
        classes: label of a data set → name of a class → the name that the report gives it.
        secrets: texts that a report to be passed on must not hold.
    """

    matrix: Matrix
    results: list[CellResult]
    for_sharing: bool
    originals: list[CellResult]
    hidden: frozenset[str] = frozenset()
    credentialed: frozenset[str] = frozenset()
    classes: dict[str, dict[str, str]] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()

    def may_show(self, label: str) -> bool:
        """Return whether the report may hold pictures of a data set, and dots that stand for one image each."""
        return not self.for_sharing or label not in self.hidden

    def hosts(self, found: Iterable[str]) -> list[str]:
        """Return the names of machines that the report may hold."""
        return [] if self.for_sharing else sorted(found)

    def settings(self) -> dict[str, Any]:
        """Return the resolved matrix that the report holds."""
        cells = [replace(c, dataset=reduced(c.dataset, not self.may_show(c.dataset.label))) for c in self.matrix.cells]
        return resolved(self.matrix.settings, cells if self.for_sharing else self.matrix.cells)

    def check(self, name: str, text: str) -> None:
        """Search a finished text for secrets: the last check before it is written.

        Raises:
            BorderError: if it holds a path or a message that it must not hold, which is a mistake of the harness.
        """
        plain_text = html.unescape(text).replace("\\", "")
        for secret in self.secrets:
            if secret in text or secret.replace("\\", "") in plain_text:
                raise BorderError(
                    f"the report to be passed on would hold a place or a message of this machine's ({name}); nothing "
                    "was written: a mistake of the harness, please report it; `bench report` without --share is local"
                )


def export(matrix: Matrix, results: list[CellResult], store: Store, for_sharing: bool) -> ReportInput:
    """Return the input of a report; see `ReportInput`."""
    hidden = frozenset(c.dataset.label for c in matrix.cells if not is_open(c.sharing))
    own = frozenset(c.dataset.label for c in matrix.cells if not is_open(c.dataset.sharing))
    if not for_sharing:
        return ReportInput(matrix, results, for_sharing, results, hidden, own)
    labels = list(dict.fromkeys(c.label for c in matrix.cells))
    rows = stand_ins(labels, "row") if hidden else {label: label for label in labels}
    sets = stand_ins(dict.fromkeys(c.dataset.label for c in matrix.cells), "data-set")
    sets = {label: said.replace(" ", "-") if label in hidden else label for label, said in sets.items()}
    classes = {label: _classes_of(label, results, store) for label in hidden}
    cells = {c.name: _reduced_cell(c, rows, sets[c.dataset.label], bool(hidden)) for c in matrix.cells}
    return ReportInput(
        matrix=replace(matrix, settings=_reduced_settings(matrix, rows, bool(hidden)), cells=tuple(cells.values())),
        results=[
            _reduced_result(r, cells[r.cell.name], classes.get(r.cell.dataset.label), not hidden) for r in results
        ],
        for_sharing=True,
        originals=results,
        hidden=frozenset(sets[label] for label in hidden),
        credentialed=frozenset(sets[label] for label in own),
        classes={sets[label]: found for label, found in classes.items()},
        secrets=frozenset(_secrets(matrix, results, store)),
    )


def _reduced_cell(cell: Cell, rows: dict[str, str], label: str, words: bool) -> Cell:
    """Return a cell whose row names no path. Its stages stay as they are, since the store finds results by them."""
    row = replace(
        cell.row,
        label=rows[cell.label],
        method=reduced(cell.method, words),
        classifier=reduced(cell.row.classifier, words),
        against=tuple(rows[label] for label in cell.against if label in rows),
    )
    dataset = cell.dataset if label == cell.dataset.label else cell.dataset.model_copy(update={"name": label})
    return replace(cell, row=row, dataset=dataset)


def _reduced_settings(matrix: Matrix, rows: dict[str, str], words: bool) -> MatrixSettings:
    settings = matrix.settings
    changes: dict[str, Any] = {"datasets": [], "settings": {}, "methods": []}  # `resolved` fills them in again
    if words:
        changes["name"] = stand_ins([settings.name], "matrix")[settings.name]
        changes["description"] = plain_words(settings.description)
        changes["study"] = _reduced_study(matrix, rows) if settings.study else None
    return reduced(settings.model_copy(update=changes), words).model_copy(update=changes)


def _reduced_study(matrix: Matrix, rows: dict[str, str]) -> Study | None:
    """Return the study, or None if its axis or its legend would hold a name that must not leave."""
    from bench.matrix.study import settings_of

    study = matrix.settings.study
    if study is None:
        return None
    found = [settings_of(cell) for cell in matrix.cells]
    named = {str(s[path]) for s in found for path in (study.x, study.line) if path in s and path != "row"}
    hidden = {p for cell in matrix.cells for p in places(cell.dataset)} | places(matrix.settings)
    if not all(is_name(name) and name not in hidden for name in named):
        return None
    said = study.x_label if study.x_label and is_name(study.x_label) else None
    columns = [c for c in study.columns if is_name(c)]
    changes = {"levels": [rows[label] for label in study.levels], "x_label": said, "columns": columns}
    return study.model_copy(update=changes)


def _reduced_result(result: CellResult, cell: Cell, classes: dict[str, str] | None, tells: bool) -> CellResult:
    """Return a result that may be passed on.

    `tells`: whether its messages may stay. They go if any data set is credentialed, since a message about one data
    set can speak of another.
    """
    error = without_paths(str(result.failure.get("error"))) if tells and result.failure else _NOT_SAID
    skip = without_paths(result.skip) if tells and result.skip else _NOT_SAID
    failure = result.failure and {**(result.failure if tells else {}), "error": error}
    result = replace(result, cell=cell, failure=failure, skip=result.skip and skip)
    if classes is None:
        return result
    return replace(
        result,
        scores=aggregates(result.scores, classes),
        fidelity=aggregates(result.fidelity, classes),
        diagnostics=aggregates(result.diagnostics, classes),
        classifier=aggregates(result.classifier, classes),
        history=[aggregates(row, classes) for row in result.history],
    )


def _classes_of(label: str, results: list[CellResult], store: Store) -> dict[str, str]:
    found = [r for r in results if r.cell.dataset.label == label]
    names = dict.fromkeys(name for r in found for name in (r.scores or {}).get("ap", ()))
    dataset = found[0].cell.dataset
    if store.has(dataset):
        names = dict.fromkeys([*dataset.open(store.folder(dataset)).class_names, *names])
    return stand_ins(names, "class")


def _secrets(matrix: Matrix, results: list[CellResult], store: Store) -> Iterator[str]:
    """Yield texts that must not be passed on and are long enough that a report does not hold them by chance."""
    named = {p for c in matrix.cells for m in (c.dataset, c.method, c.row.classifier) for p in places(m)}
    named |= places(matrix.settings) | {str(store.root), str(Path.home())}
    # Plain words are no secret: the page itself says `figures/`.
    yield from (p for p in named if len(p) >= _SHORTEST_SECRET and not is_plain(p.rstrip("/")))
    hidden = [r for r in results if not is_open(r.cell.sharing)]
    told = (text for r in hidden for text in (r.skip, str((r.failure or {}).get("error") or "")) if text)
    yield from (text for text in told if len(text) > _LONGEST_WORD)
