"""Keys: everything that decides a result changes them, nothing else does, in every process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, SerializeAsAny, ValidationError

from bench.pipeline.key import canonical_json
from bench.pipeline.settings import Settings, not_semantic
from bench.pipeline.stage import Stage, walk


class Optimiser(Settings):
    rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)


class Source(Stage):
    seed: int = 0


class OtherSource(Stage):
    seed: int = 0


class Train(Stage):
    source: SerializeAsAny[Stage] = Source()
    more: list[Stage] = []
    named: dict[str, Stage] = {}
    optimiser: Optimiser = Optimiser()
    steps: int = 10
    rate: float = 0.1
    name: str = "a"
    flag: bool = False
    weights: dict[str, float] = {}
    order: list[int] = []
    limit: int | None = None
    workers: int = not_semantic(1)
    cache: Path = not_semantic(Path("."))


SEMANTIC_CHANGES: list[dict[str, Any]] = [
    {"source": Source(seed=1)},
    {"source": OtherSource()},
    {"more": [Source()]},
    {"more": [Source(), Source(seed=1)]},
    {"more": [Source(seed=1), Source()]},
    {"named": {"x": Source()}},
    {"named": {"y": Source()}},
    {"optimiser": Optimiser(rate=0.002)},
    {"optimiser": Optimiser(betas=(0.9, 0.99))},
    {"steps": 11},
    {"rate": 0.1 + 2**-54},
    {"name": "b"},
    {"flag": True},
    {"weights": {"a": 1.0}},
    {"weights": {"a": 2.0}},
    {"order": [1, 2]},
    {"order": [2, 1]},
    {"limit": 0},
]


def test_every_semantic_change_gives_its_own_key() -> None:
    keys = [Train().key, *(Train(**change).key for change in SEMANTIC_CHANGES)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


@pytest.mark.parametrize("same", [{"workers": 8}, {"cache": Path("/elsewhere")}, {"steps": 10}, {"source": Source()}])
def test_where_and_how_fast_and_written_out_defaults_do_not_change_the_key(same: dict[str, Any]) -> None:
    assert Train(**same).key == Train().key


def test_the_order_of_a_mapping_does_not_change_the_key() -> None:
    assert Train(weights={"a": 1, "b": 2}).key == Train(weights={"b": 2, "a": 1}).key


def test_ways_to_write_one_float_give_one_key() -> None:
    assert Train(rate=1e-4).key == Train(rate="0.0001").key == Train(rate=float("1E-4")).key
    assert Train(weights={"a": 1}).key == Train(weights={"a": 1.0}).key


def test_an_input_enters_by_its_key_however_deep_it_is() -> None:
    class Holder(Settings):
        below: dict[str, list[Stage]]

    class Deep(Stage):
        holder: Holder

    deep = Deep(holder=Holder(below={"x": [Train()]}))
    changed = Deep(holder=Holder(below={"x": [Train(optimiser=Optimiser(rate=0.5))]}))
    assert deep.key != changed.key
    assert deep.identity["holder"]["below"]["x"] == [{"stage": "train", "key": Train().key}]
    assert deep.key == Deep(holder=Holder(below={"x": [Train(workers=9)]})).key


def test_a_subclass_in_a_base_typed_field_brings_all_of_its_settings() -> None:
    class Finer(Source):
        detail: int = 0

    assert len({Train(source=s).key for s in (Source(), Finer(), Finer(detail=1))}) == 3


def test_a_changed_default_or_version_changes_the_key() -> None:
    def make(default: int, version_: int) -> Stage:
        class Made(Stage):
            version: ClassVar[int] = version_
            n: int = Field(default, ge=0)

        return Made()

    assert len({make(*v).key for v in ((1, 1), (2, 1), (1, 2))}) == 3
    assert make(1, 1).key == make(1, 1).key


def test_a_copy_with_a_change_has_its_own_key() -> None:
    first = Train()
    assert first.key != first.model_copy(update={"steps": 11}).key == Train(steps=11).key
    assert first.model_copy(deep=True).key == first.key


@pytest.mark.parametrize("reserved", ["version", "code", "content"])
def test_a_setting_cannot_hide_a_part_of_the_identity(reserved: str) -> None:
    cls = type("Hides", (Settings,), {"__annotations__": {reserved: int}, reserved: 0, "__module__": __name__})

    class Holder(Stage):
        inner: Any

    with pytest.raises(TypeError, match=reserved):
        _ = Holder(inner=cls()).key


def test_data_on_disk_enters_by_its_content_not_by_its_place(tmp_path: Path) -> None:
    class Weights(Settings):
        path: str = not_semantic("")

        def content(self) -> str:
            return Path(self.path).read_text(encoding="utf-8")

    class Uses(Stage):
        weights: Weights

    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, text in zip(paths, ("one", "one", "two"), strict=True):
        path.write_text(text, encoding="utf-8")
    keys = [Uses(weights=Weights(path=str(path))).key for path in paths]
    assert keys[0] == keys[1] != keys[2]


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize("value", [Path("/data"), {1, 2}, b"bytes", Colour.RED, object()])
def test_values_that_mean_a_place_or_have_no_order_are_refused(value: object) -> None:
    class Loose(Stage):
        anything: Any

    with pytest.raises(TypeError, match=type(value).__name__):
        _ = Loose(anything=value).key


def test_settings_refuse_unknown_names_changes_and_numbers_without_order() -> None:
    with pytest.raises(ValidationError, match="stepz"):
        Train(stepz=1)
    with pytest.raises(ValidationError, match="frozen"):
        Train().steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="finite"):
        Train(rate=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("inf")})


def test_pickling_keeps_equality_and_key_and_stages_stand_in_sets() -> None:
    stage = Train(more=[Source(seed=3)], weights={"a": 1})
    copy = pickle.loads(pickle.dumps(stage))
    assert copy == stage
    assert copy.key == stage.key
    assert len({stage, copy, Train()}) == 2


def test_walk_gives_each_stage_once_and_inputs_first() -> None:
    shared = Source(seed=5)
    left, right = Train(source=shared), Train(source=shared, steps=2)
    top = Train(more=[left, right], named={"again": left})
    order = [s.key for s in walk([top, right])]
    assert len(order) == len(set(order)) == 5
    for stage in (left, right, top):
        assert all(order.index(below.key) < order.index(stage.key) for below in stage.inputs())
    assert [s.key for s in top.inputs()] == [Source().key, left.key, right.key]


PACKAGE = {
    "__init__.py": "",
    "stage.py": """
from bench.pipeline.stage import Stage
from acme import helper
class Make(Stage):
    n: int = 1
    def compute(self, work):
        import importlib, beside, library
        from acme.inner import late
        named = importlib.import_module("acme.named")
        return helper.double(self.n) + late(self.n)
""",
    "helper.py": "def double(x):\n    return 2 * x\n",
    "inner/__init__.py": "from ..deep import late\n",
    "deep.py": "from .deeper import OFFSET\ndef late(x):\n    return x + OFFSET\n",
    "deeper.py": "OFFSET = 1\n",
    "unused.py": "raise RuntimeError('never imported')\n",
    "named.py": "SHIFT = 0\n",
    "../beside.py": "import beside_too\n",
    "../beside_too/__init__.py": "from beside_too.last import WIDTH\n",
    "../beside_too/last.py": "WIDTH = 3\n",
    "../site-packages/library.py": "VALUE = 1\n",
}


def keys_of(tmp_path: Path, variants: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the key of `acme.stage.Make` for each variant of the package, each in a process of its own."""
    running = {}
    for name, changes in variants.items():
        for file, text in (PACKAGE | changes).items():
            path = tmp_path / name / "acme" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        places = [str(tmp_path / name), str(tmp_path / name / "site-packages")]
        code = f"import sys; sys.path[:0] = {places}; from acme.stage import Make; print(Make().key)"
        running[name] = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return {name: process.communicate()[0].strip() for name, process in running.items()}


def test_code_that_a_stage_reaches_enters_its_key_and_nothing_else_of_the_text_does(tmp_path: Path) -> None:
    spaced = '"""What helps."""\n\n# why\ndef double(\n    x,\n):\n    """Double."""\n    return 2 * x  # twice\n'
    keys = keys_of(
        tmp_path,
        {
            "same": {},
            "comments": {"helper.py": spaced},
            "unused": {"unused.py": "raise RuntimeError('changed')\n"},
            "module": {"stage.py": PACKAGE["stage.py"].replace("+ late", "- late")},
            "helper": {"helper.py": "def double(x):\n    return x + x\n"},
            "inner": {"inner/__init__.py": "from ..deep import late as _late\ndef late(x):\n    return _late(x)\n"},
            "deep": {"deep.py": PACKAGE["deep.py"].replace("x + OFFSET", "OFFSET + x")},
            "deeper": {"deeper.py": "OFFSET = 2\n"},
            "named": {"named.py": "SHIFT = 1\n"},
            "beside": {"../beside.py": "import beside_too as _too\n"},
            "beside, deep": {"../beside_too/last.py": "WIDTH = 4\n"},
            "library": {"../site-packages/library.py": "VALUE = 2\n"},
        },
    )
    assert all(len(key) == 32 for key in keys.values())
    assert keys["comments"] == keys["same"] == keys["unused"] == keys["library"]  # a library's version is in manifests
    others = ("module", "helper", "inner", "deep", "deeper", "named", "beside", "beside, deep")
    assert len({keys[name] for name in ("same", *others)}) == 9


STARRED = {
    "stage.py": """
import importlib
from bench.pipeline.stage import Stage
from acme.face import double
from .kit import late
from acme.dotted import acme as _acme
SHIFT = importlib.import_module("._named", __package__).SHIFT
class Make(Stage):
    n: int = 1
""",
    "face.py": "from acme.helper import *\nfrom acme.other import *\n",
    "kit/__init__.py": "from .work import *\n",
    "kit/work.py": "def late(x):\n    return x\n",
    "dotted.py": "import acme.deeper\n",
    "other.py": "TWO = 2\n",
    "_named.py": "SHIFT = 0\n",
}


def test_code_behind_star_imports_and_relative_names_enters_the_key(tmp_path: Path) -> None:
    edits = {
        "first star": {"helper.py": "def double(x):\n    return x + x\n"},
        "second star": {"other.py": "TWO = 3\n"},
        "package": {"kit/work.py": "def late(x):\n    return -x\n"},
        "dotted": {"deeper.py": "OFFSET = 2\n"},
        "relative": {"_named.py": "SHIFT = 1\n"},
    }
    keys = keys_of(tmp_path, {name: STARRED | changes for name, changes in {"same": {}, **edits}.items()})
    assert all(len(key) == 32 for key in keys.values())
    assert not [name for name in edits if keys[name] == keys["same"]]


def test_a_key_needs_neither_the_import_of_lazy_modules_nor_that_they_work(tmp_path: Path) -> None:
    lazy = PACKAGE["stage.py"].replace("from acme.inner import late", "from acme.heavy.part import late")
    broken = {"stage.py": lazy, "heavy/__init__.py": "raise RuntimeError('too early')\n", "heavy/part.py": "late = 1\n"}
    keys = keys_of(tmp_path, {"one": broken, "two": broken | {"heavy/part.py": "late = 2\n"}})
    assert len(keys["one"]) == 32
    assert keys["one"] != keys["two"]


def test_a_module_or_package_that_affects_no_result_may_change(tmp_path: Path) -> None:
    helper = "AFFECTS_RESULTS = False\ndef double(x):\n    return {}\n"
    package = {"stage.py": PACKAGE["stage.py"].replace("acme.inner", "acme.quiet.late"), "quiet/late.py": "late = 1\n"}
    quiet = package | {"quiet/__init__.py": '"""Quiet."""\n\nAFFECTS_RESULTS = False\n'}
    variants = {
        "module": {"helper.py": helper.format("x")},
        "module, changed": {"helper.py": helper.format("x + x")},
        "package": quiet,
        "package, changed": quiet | {"quiet/late.py": "late = 2\n"},
        "loud": package | {"quiet/__init__.py": ""},
        "loud, changed": package | {"quiet/__init__.py": "", "quiet/late.py": "late = 2\n"},
    }
    keys = keys_of(tmp_path, variants)
    assert all(len(key) == 32 for key in keys.values())
    assert keys["module"] == keys["module, changed"]
    assert keys["package"] == keys["package, changed"]
    assert keys["loud"] != keys["loud, changed"]


def test_a_stage_whose_code_cannot_be_read_has_no_key() -> None:
    code = "from bench.pipeline.stage import Stage\nclass Here(Stage):\n    n: int = 1\nHere().key"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "TypeError: the code of Here cannot be read" in ended.stderr


def test_keys_are_equal_in_another_process_with_another_hash_salt() -> None:
    stages = "[Train().key, Train(weights={'b': 2, 'a': 1}, more=[OtherSource(seed=4)]).key]"
    code = f"import json; from tests.unit.pipeline.test_stage import *; print(json.dumps({stages}))"
    root = Path(__file__).parents[3]
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(told) == eval(stages)
