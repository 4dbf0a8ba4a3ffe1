"""Build a matrix: turn checked settings into cells, each a tree of stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import seeds
from bench.augment.augmented import Augmented, diagnostics_of
from bench.augment.latents import Latents
from bench.augment.method import Method, Plan, Task
from bench.classifier.classifier import Classifier
from bench.classifier.relabelled import Labelled
from bench.data.dataset import Dataset
from bench.data.held_out_pairs import pair_columns, refuse_official
from bench.data.split import Split, SplitSettings, Train, checked_parts
from bench.errors import ConfigError, DataError, listed
from bench.evaluation.extractors import ClassifierExtractor
from bench.evaluation.fidelity import Fidelity
from bench.evaluation.grouped_scores import GroupedScores
from bench.evaluation.measures import FidelitySettings
from bench.evaluation.scores import Scores
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.matrix.rows import Row, build_rows, control_among
from bench.matrix.settings import MatrixSettings
from bench.pipeline.missing_inputs import noting_missing
from bench.plugins import registry

_LONGEST_NAME = 240  # bytes of a cell's name; file systems take 255, and temporary files add a suffix

_MOST_IMAGES = 1_000_000  # images of one class; a typing error must not use up all memory


def build_matrix(raw: dict[str, Any], where: str) -> Matrix:
    """Return the matrix that a raw mapping describes, with all of its settings checked.

    Args:
        raw: the content of a matrix file.
        where: the file's name, with which every error begins.

    Raises:
        ConfigError: for anything unknown, duplicated or out of range.
    """
    settings = _with_one_extractor(registry.build(MatrixSettings, raw, where))
    for name in settings.settings:
        registry.require_method(name, f"{where}.settings")
    used = {registry.Shorthand.of(row.method).name for row in settings.methods}
    if unused := sorted(set(settings.settings) - used):
        raise ConfigError(f"{where}.settings.{unused[0]}: no row of `methods` uses it (rows: {listed(used)})")
    datasets = [registry.parse_dataset(d, f"{where}.datasets.{i}") for i, d in enumerate(settings.datasets)]
    _check_plan(settings.augment, datasets, where)
    _check_held_out(settings.split, datasets, where)
    _check_medium(settings.n_medium, datasets, where)
    for dataset in datasets:
        known = None
        with noting_missing(dataset):
            known = dataset.known_labels()
        if known is not None:
            with noting_missing(settings.split):
                checked_parts(known, settings.split)  # raises if the data set cannot be split this way
    _check_labels(datasets, where)
    rows = build_rows(settings.methods, settings.settings, settings.classifier, where)
    control = control_among(rows, settings.classifier)
    if control is None:
        _check_nothing_needs_a_control(rows, settings.fidelity, where)
    try:
        builders = [CellBuilder(settings, dataset, control) for dataset in datasets]
        cells = tuple(b.build(row, seed) for b in builders for row in rows for seed in settings.seeds)
    except ConfigError as error:  # the diffusion model is not where the settings say
        raise ConfigError(f"{where}: {error}") from error
    _check_names([c.name for c in cells], where)
    if settings.study is not None:
        settings.study.check(cells, where)
    return Matrix(settings, cells)


def _with_one_extractor(settings: MatrixSettings) -> MatrixSettings:
    """Return settings that name the seed of the baseline whose features measure distances.

    The default is the first seed of the matrix. It is written down because a cell's record has one seed alone. Without
    this, the cell that is built again from its record would get another extractor, and with it another key.
    """
    extractor = settings.fidelity.extractor
    if not isinstance(extractor, ClassifierExtractor) or extractor.seed is not None:
        return settings
    chosen = extractor.model_copy(update={"seed": settings.seeds[0]})
    return settings.model_copy(update={"fidelity": settings.fidelity.model_copy(update={"extractor": chosen})})


def _check_plan(plan: Plan, datasets: Sequence[Dataset], where: str) -> None:
    """Refuse names of classes that the data sets are known not to have, and absurd numbers of images."""
    for name, n in {"per_class": plan.per_class, **{f"counts.{k}": n for k, n in plan.counts.items()}}.items():
        if n > _MOST_IMAGES:
            raise ConfigError(f"{where}.augment.{name}: want {_MOST_IMAGES} images or fewer, got {n}")
    for dataset in datasets:
        classes = None
        with noting_missing(dataset):
            classes = dataset.known_classes()
        if classes is not None:
            try:
                plan.check(classes)
                dataset.exclusions(classes)
            except ConfigError as error:
                raise ConfigError(f"{where}.{error}") from error


def _check_held_out(split: SplitSettings, datasets: Sequence[Dataset], where: str) -> None:
    """Refuse held-out pairs of classes that a data set is known not to have, or of one with an official split."""
    for dataset in datasets if split.held_out_pairs else ():
        classes = size = None
        with noting_missing(dataset):
            classes, size = dataset.known_classes(), dataset.known_size()
        try:
            if size is not None and size.n_train is not None:
                refuse_official()
            if classes is not None:
                pair_columns(split.held_out_pairs, classes)
        except DataError as error:
            raise DataError(f"{where}: data set '{dataset.label}': {error}") from error


def _check_medium(n_medium: int, datasets: Sequence[Dataset], where: str) -> None:
    """Refuse more medium classes than a data set is known to have outside of its tail, of which one must be head."""
    for dataset in datasets if n_medium else ():
        classes = size = None
        with noting_missing(dataset):
            classes, size = dataset.known_classes(), dataset.known_size()
        if classes is not None and size is not None and n_medium >= (n := len(classes) - len(size.tail)):
            raise ConfigError(
                f"{where}.n_medium: want fewer than the {n} classes of data set '{dataset.label}' that are not tail, "
                f"so that a head is left, got {n_medium}"
            )


def _check_nothing_needs_a_control(rows: Sequence[Row], fidelity: FidelitySettings, where: str) -> None:
    """Refuse teacher labels and the classifier's features in a matrix without a control, a row that adds no images."""
    if needing := next((r.label for r in rows if r.method.labels == "teacher"), None):
        what = f"row '{needing}' has labels by 'teacher'"
    elif isinstance(fidelity.extractor, ClassifierExtractor):
        what = "fidelity.extractor is of kind 'classifier'"
    else:
        return
    raise ConfigError(f"{where}: {what}, the classifier of the row that adds no images; add such a row to `methods`")


def _check_names(names: Sequence[str], where: str) -> None:
    """Refuse two cells of one name, and a name that is too long for a folder."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where}: the cell {name} is there twice; give each data set, method and seed once")
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigError(
                f"{where}: the cell {name[:60]}… has a name of {len(name.encode())} bytes, want {_LONGEST_NAME} "
                "or fewer; give the data set a shorter `name`, or the row a shorter `row`"
            )
        seen.add(name)


def _check_labels(datasets: Sequence[Dataset], where: str) -> None:
    """Refuse two data sets with the same label, which tables and records could not tell apart."""
    labels = [d.label for d in datasets]
    for i, dataset in enumerate(datasets):
        first = labels.index(dataset.label)
        if first < i:
            named = "name" in type(dataset).model_fields
            what = "give one another `name`" if named else "run them as two matrices, each with its `name`"
            raise ConfigError(f"{where}: datasets {first} and {i} are both called '{dataset.label}'; {what}")


class CellBuilder:
    """Builds the cells of one data set.

    What the cells share is made once. Each stage computes its key when it is first asked for it, and so would each of
    a thousand equal ones.
    """

    def __init__(self, settings: MatrixSettings, dataset: Dataset, control: Row | None = None) -> None:
        """Build cells of a matrix.

        Args:
            settings: the matrix's.
            dataset: the data set.
            control: the row that `control_among` returns. Its classifier with a cell's seed is the cell's teacher. Its
                classifier with the extractor's seed gives the features of an extractor of kind `classifier`.
        """
        self.settings, self.dataset, self.control = settings, dataset, control
        self.split = Split(dataset=dataset, settings=settings.split)
        self.train = Train(split=self.split)
        self.latents = Latents(train=self.train, diffusion=settings.diffusion)
        self._teachers: dict[int, Classifier] = {}
        self._fidelities: dict[int, FidelitySettings] = {}

    def build(self, row: Row, seed: int) -> Cell:
        """Return the cell of a row and a seed."""
        settings = self.settings
        task, teacher = self._task(seed), self._teacher(seed)
        if row.method.makes_images:
            task = task.model_copy(update={"teacher": teacher})
        augmented = Augmented.of(row.method, task)
        labelled = _labelled(row.method, augmented, teacher)
        classifier = self._trained(augmented, seed, row, labelled)
        fidelity = self._fidelity(seed)
        return Cell(
            matrix=settings.name,
            dataset=self.dataset,
            row=row,
            seed=seed,
            split=self.split,
            augmented=augmented,
            classifier=classifier,
            scores=_scores(settings, self.split, classifier),
            fidelity=Fidelity(split=self.split, train=self.train, augmented=augmented, settings=fidelity),
            diagnostics=diagnostics_of(row.method, task),
        )

    # The seeds of the stages come from the cell's seed and a fixed word, never from the method's name. So all methods
    # of one seed share the split, the initial weights and the order of the batches, and their differences are paired.

    def _task(self, seed: int) -> Task:
        return Task(
            train=self.train,
            latents=self.latents,
            diffusion=self.settings.diffusion,
            plan=self.settings.augment,
            seed=seeds.derive(seed, "method"),
        )

    def _trained(self, augmented: Augmented, seed: int, row: Row, labelled: Labelled | None = None) -> Classifier:
        return Classifier(
            split=self.split,
            train=self.train,
            seed=seeds.derive(seed, "classifier"),
            augmented=augmented,
            labelled=labelled,
            settings=row.classifier,
        )

    def _teacher(self, seed: int) -> Classifier | None:
        """Return the control's classifier with a cell's seed, or None without a control."""
        if self.control is not None and seed not in self._teachers:
            plain = Augmented.of(self.control.method, self._task(seed))
            self._teachers[seed] = self._trained(plain, seed, self.control)
        return self._teachers.get(seed)

    def _fidelity(self, seed: int) -> FidelitySettings:
        """Return the settings of the fidelity, with the classifier whose features an extractor of that kind takes."""
        extractor = self.settings.fidelity.extractor
        whose = extractor.seed if isinstance(extractor, ClassifierExtractor) else 0
        whose = seed if whose is None else whose
        if whose not in self._fidelities:
            teacher, fidelity = self._teacher(whose), self.settings.fidelity
            self._fidelities[whose] = fidelity if teacher is None else fidelity.with_classifier(teacher)
        return self._fidelities[whose]


def _scores(settings: MatrixSettings, split: Split, classifier: Classifier) -> Scores:
    """Return the stage of the scores; without medium classes, its key does not depend on what they are."""
    if not settings.n_medium:
        return Scores(split=split, classifier=classifier, settings=settings.scores)
    return GroupedScores(split=split, classifier=classifier, settings=settings.scores, n_medium=settings.n_medium)


def _labelled(method: Method, augmented: Augmented, teacher: Classifier | None) -> Labelled | None:
    """Return the stage that relabels the method's images, or None if its own labels are used."""
    if method.labels == "own" or not method.makes_images:
        return None
    taught_by = teacher if method.labels == "teacher" else None
    return Labelled(augmented=augmented, policy=method.labels, teacher=taught_by)
