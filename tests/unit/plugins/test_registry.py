"""Plugins: found by being there, named in errors with the nearest valid name, harmless when broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field

from bench.errors import ConfigError, PluginError
from bench.pipeline.settings import Settings
from bench.plugins import registry

PLUGIN = '''
from bench.contract import Method
class Copies(Method):
    """Copies."""
    name = "copies"
    at = "times"
    times: int = 2
    def augment(self, ctx):
        yield from ()
class _Half(Method):
    name = "half"
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder whose modules are methods beside the shipped ones."""
    import methods

    def forget() -> None:
        for cached in (registry.methods, registry.broken):
            cached.cache_clear()
        for name in [n for n in sys.modules if n.startswith("methods.plugin_")]:
            del sys.modules[name]

    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def test_the_shipped_methods_and_data_sets_are_found() -> None:
    assert {"baseline", "duplicate", "smote", "roentgen"} <= registry.methods().keys()
    assert "phantom" in registry.datasets()
    assert registry.broken() == []


def test_a_file_in_the_folder_is_a_method(plugins: Path) -> None:
    (plugins / "plugin_a.py").write_text(PLUGIN, encoding="utf-8")
    assert registry.parse_method("copies@3").times == 3  # type: ignore[attr-defined]
    assert "half" not in registry.methods()  # an abstract helper is no method


class Odd(BaseException):
    """What nobody expects to be raised."""


BROKEN = {
    "missing package": ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "syntax": ("def (:\n", "SyntaxError: "),
    "exit": ("raise SystemExit('bye')\n", "SystemExit: bye"),
    "oddity": (f"from {__name__} import Odd\nraise Odd('so there')\n", "Odd: so there"),
    "not text": ("\x00", "SyntaxError: source code string cannot contain null bytes"),
    "no name": (PLUGIN.replace('    name = "copies"\n', ""), "class Copies has no `name`"),
    "name is no text": (PLUGIN.replace('"copies"', "7"), "class Copies has no `name`"),
    "name with a space": (PLUGIN.replace("copies", "co pies"), "name 'co pies': want lower-case letters, digits and -"),
    "name with @": (PLUGIN.replace("copies", "copies@2"), "name 'copies@2': want lower-case letters, digits and -"),
    "empty name": (PLUGIN.replace("copies", ""), "name '': want lower-case letters, digits and -"),
    "upper-case name": (PLUGIN.replace("copies", "Copies"), "name 'Copies': want lower-case letters, digits and -"),
    "name of a folder": (PLUGIN.replace("copies", "../x"), "name '../x': want lower-case letters, digits and -"),
    "no type": (PLUGIN.replace("times: int = 2", "times = 2"), "field 'times' has no type; write 'times: int = 2'"),
    "no type, odd": (PLUGIN.replace("times: int = 2", "f = print"), "field 'f' has no type; write 'f: TYPE = ...'"),
    "no type, known": (
        PLUGIN.replace("times: int = 2", 'labels = "union"'),
        "PydanticUserError: Field 'labels' defined on a base class was overridden by a non-annotated attribute.",
    ),
    "odd type": (
        PLUGIN.replace("times: int", "times: 'Odd'").replace("class C", "class Odd: ...\nclass C"),
        "PydanticSchemaGenerationError: ",
    ),
    "at": (PLUGIN.replace('"times"', '"time"'), "class Copies: `at` names no field: 'time'"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_listed_and_its_stand_in_takes_any_value_and_setting(plugins: Path, fault: str) -> None:
    code, reason = BROKEN[fault]
    (plugins / "plugin_bad.py").write_text(code, encoding="utf-8")
    (plugins / "plugin_a.py").write_text(PLUGIN, encoding="utf-8")
    assert {"baseline", "copies"} <= registry.methods().keys()
    found = next(b for b in registry.broken() if b.module == "methods.plugin_bad")
    assert found.reason.startswith(reason)
    assert "https://" not in found.reason
    odd = {"any": {"thing": [float("nan"), None]}, "labels": 3}
    taken = registry.parse_method("plugin_bad@x/y", odd)
    assert (taken.name, taken.label) == ("plugin_bad", "plugin_bad@x/y")
    assert taken.model_dump(exclude=None) == odd
    with pytest.raises(PluginError, match=re.escape(reason)) as failed:
        next(taken.augment(None))  # type: ignore[call-overload]
    assert isinstance(failed.value, ImportError)  # so that the store tries it again
    assert ("Traceback" in str(failed.value.__cause__)) != (fault == "at" or "name" in fault)


def test_a_plugin_that_does_not_import_is_known_by_the_name_in_its_text(plugins: Path) -> None:
    (plugins / "plugin_bad.py").write_text("import not_there_at_all\n" + PLUGIN, encoding="utf-8")
    package = plugins / "plugin_package"
    package.mkdir()
    (package / "__init__.py").write_text("from methods.plugin_package.method import Copies\n", encoding="utf-8")
    text = PLUGIN.replace('name = "copies"', "name: ClassVar[str] = 'inner'")
    (package / "method.py").write_text(text, encoding="utf-8")
    assert registry.parse_method("copies@3").label == "copies@3"
    assert registry.parse_method("inner").label == "inner"
    assert {"copies", "inner", "plugin_bad"} <= registry.known_methods()
    with pytest.raises(ConfigError, match="no method 'copiez'; did you mean 'copies'"):
        registry.parse_method("copiez")


def test_whoever_needs_the_class_itself_is_told_why_there_is_none(plugins: Path) -> None:
    (plugins / "plugin_bad.py").write_text("import not_there_at_all\n", encoding="utf-8")
    registry.require_method("plugin_bad", "x")
    with pytest.raises(ConfigError, match=r"'plugin_bad' cannot be used .*not_there_at_all.*see methods\.plugin_bad"):
        registry.method_class("plugin_bad", "x")


def test_what_a_plugin_prints_while_it_is_imported_is_not_data(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugins / "plugin_a.py").write_text("print('hello')\n" + PLUGIN, encoding="utf-8")
    assert "copies" in registry.methods()
    assert capsys.readouterr() == ("", "hello\n")


def test_an_interrupt_while_plugins_are_imported_is_the_users(plugins: Path) -> None:
    (plugins / "plugin_bad.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        registry.methods()


def test_checks_of_a_method_that_crash_give_a_stand_in_and_those_that_refuse_do_not(plugins: Path) -> None:
    check = """
    from pydantic import model_validator
    @model_validator(mode="after")
    def check(self):
        if self.times > 5:
            raise ValueError("too many")
        return {}[self.times] if self.times > 3 else self
"""
    (plugins / "plugin_a.py").write_text(PLUGIN.replace("    def augment", check + "    def augment"), encoding="utf-8")
    assert registry.parse_method("copies@3").times == 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="too many"):
        registry.parse_method("copies@6")
    taken = registry.parse_method("copies@4")
    assert taken.label == "copies@4"
    with pytest.raises(PluginError, match=r"methods\.plugin_a cannot take these settings: KeyError: 4"):
        next(taken.augment(None))  # type: ignore[call-overload]


def test_two_plugins_of_one_name_are_refused_to_who_asks_for_it_and_harm_nobody_else(plugins: Path) -> None:
    for file in ("plugin_a.py", "plugin_b.py"):
        (plugins / file).write_text(PLUGIN, encoding="utf-8")
    assert "baseline" in registry.methods()
    for ask in (registry.parse_method, registry.method_class, registry.require_method):
        with pytest.raises(
            ConfigError, match=r"two plugins are called 'copies'.*methods\.plugin_a and methods\.plugin_b"
        ):
            ask("copies", where="x")  # type: ignore[call-arg]


def test_a_file_that_another_of_its_name_hides_is_refused_to_who_asks_for_either(
    plugins: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import methods

    other = tmp_path_factory.mktemp("others")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(plugins / "." / ""), str(other)])
    (plugins / "plugin_a.py").write_text(PLUGIN, encoding="utf-8")
    (plugins / "smote.py").write_text(PLUGIN.replace("copies", "better"), encoding="utf-8")
    (other / "plugin_a").mkdir()
    (other / "plugin_a" / "__init__.py").write_text(PLUGIN.replace("copies", "twins"), encoding="utf-8")
    for folder in (plugins, other):
        (folder / "_helper.py").write_text("", encoding="utf-8")
    shipped = Path(methods.__file__).parent
    said = {b.module: (b.reason, b.clash) for b in registry.broken()}
    assert said == {
        "methods.plugin_a": (
            f"{plugins}/plugin_a.py and {other}/plugin_a/__init__.py have the same name; rename one",
            True,
        ),
        "methods.smote": (f"{shipped}/smote.py and {plugins}/smote.py have the same name; rename one", True),
        "methods._helper": (f"{plugins}/_helper.py and {other}/_helper.py have the same name; rename one", True),
    }
    assert "baseline" in registry.methods()
    for name in ("copies", "twins", "plugin_a", "smote", "better"):
        with pytest.raises(ConfigError, match=rf"method '{name}' cannot be used .* have the same name; rename one"):
            registry.parse_method(name)


def test_a_data_set_that_does_not_import_has_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.data.kinds

    (tmp_path / "plugin_scans.py").write_text("import not_there_at_all\n", encoding="utf-8")
    monkeypatch.setattr(bench.data.kinds, "__path__", [*bench.data.kinds.__path__, str(tmp_path)])
    for cached in (registry.datasets, registry.broken):
        cached.cache_clear()
    try:
        taken = registry.parse_dataset({"kind": "plugin_scans", "root": "/x", "name": "mine"})
        assert (taken.kind, taken.label, taken.sharing) == ("plugin_scans", "mine", "credentialed")
        assert taken.known_classes() is None
        assert len(taken.key) == 32
        with pytest.raises(PluginError, match="not_there_at_all"):
            taken.compute(None)
    finally:
        monkeypatch.undo()
        for cached in (registry.datasets, registry.broken):
            cached.cache_clear()


def test_the_value_after_at_sets_the_field_that_the_method_names() -> None:
    assert registry.parse_method("roentgen@7").label == "roentgen@7"
    assert registry.parse_method("roentgen@7", {"guidance_scale": 2}).guidance_scale == 2  # type: ignore[attr-defined]
    assert registry.parse_method("roentgen").label == "roentgen@75"


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("rontgen", {}, "no method 'rontgen'; did you mean 'roentgen'? (have: "),
        ("baseline@3", {}, "'baseline@3': method 'baseline' takes no '@' value; write 'baseline'"),
        ("roentgen@", {}, "roentgen@.num_inference_steps: want a whole number"),
        ("roentgen@many", {}, "roentgen@many.num_inference_steps: want a whole number"),
        ("roentgen@[3", {}, "roentgen@[3.num_inference_steps: want a whole number"),
        ("roentgen@0", {}, "want 1 or more, got 0"),
        ("roentgen@3", {"guidance": 1}, "guidance: unknown setting; did you mean 'guidance_scale'? (have: "),
        ("smote", {"space": "pixels"}, "smote.space: want 'pixel' or 'latent', got 'pixels'"),
        ("", {}, "no method ''"),
    ],
)
def test_a_method_that_cannot_be_made_is_one_line(text: str, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.parse_method(text, settings, "x.yaml.methods.0")
    assert said in str(caught.value)
    assert str(caught.value).startswith("x.yaml.methods.0: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("phantm", "x.kind: no data set kind 'phantm'; did you mean 'phantom'? (have: "),
        ({"kind": "phantom", "n_image": 3}, "x.n_image: unknown setting; did you mean 'n_images'?"),
        ({"kind": "phantom", "n_images": "some"}, "x.n_images: want a whole number"),
        ({"n_images": 3}, "x: want a kind or a mapping with 'kind'"),
        (7, "x: want a kind or a mapping with 'kind', got 7"),
    ],
)
def test_a_data_set_that_cannot_be_made_is_one_line(settings: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.parse_dataset(settings, "x")
    assert said in str(caught.value)


def test_errors_in_nested_settings_name_the_path_and_the_nearest_name_there() -> None:
    class Inner(Settings):
        generations: int = 1

    class Outer(Settings):
        inner: Inner = Inner()
        maybe: Inner | None = None
        n: int = Field(1, ge=1)

    for field in ("inner", "maybe"):
        with pytest.raises(ConfigError, match=rf"w\.{field}\.generatons: unknown setting; did you mean 'generations'"):
            registry.build(Outer, {field: {"generatons": 2}}, "w")
    with pytest.raises(ConfigError, match=r"w\.n: .*got 0 \(and 1 more\)"):
        registry.build(Outer, {"n": 0, "x": 1}, "w")
