"""Plugins: found by being there, named in errors with the nearest valid name, harmless when broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field

from bench import registry
from bench.errors import ConfigError
from bench.stage import Settings

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


def test_a_broken_plugin_is_listed_and_stops_only_who_asks_for_it(plugins: Path) -> None:
    (plugins / "plugin_bad.py").write_text("import not_there_at_all\n", encoding="utf-8")
    (plugins / "plugin_a.py").write_text(PLUGIN, encoding="utf-8")
    assert {"baseline", "copies"} <= registry.methods().keys()
    assert [b.module for b in registry.broken()] == ["methods.plugin_bad"]
    with pytest.raises(ConfigError, match=r"'plugin_bad' did not import .*not_there_at_all.*mend methods\.plugin_bad"):
        registry.parse_method("plugin_bad")


def test_two_plugins_of_one_name_are_refused(plugins: Path) -> None:
    for file in ("plugin_a.py", "plugin_b.py"):
        (plugins / file).write_text(PLUGIN, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'copies' .*methods\.plugin_a.*methods\.plugin_b"):
        registry.methods()


def test_the_value_after_at_sets_the_field_that_the_method_names() -> None:
    assert registry.parse_method("roentgen@7").label == "roentgen@7"
    assert registry.parse_method("roentgen@7", {"guidance_scale": 2}).guidance_scale == 2  # type: ignore[attr-defined]
    assert registry.parse_method("roentgen").label == "roentgen@75"


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("rontgen", {}, "no method 'rontgen'; did you mean 'roentgen'? (have: "),
        ("baseline@3", {}, "'baseline@3': method 'baseline' takes no '@' value; write 'baseline'"),
        ("roentgen@", {}, "roentgen@.num_inference_steps: input should be a valid integer"),
        ("roentgen@many", {}, "roentgen@many.num_inference_steps: input should be a valid integer"),
        ("roentgen@[3", {}, "roentgen@[3.num_inference_steps: input should be a valid integer"),
        ("roentgen@0", {}, "greater than or equal to 1, got 0"),
        ("roentgen@3", {"guidance": 1}, "guidance: unknown setting; did you mean 'guidance_scale'? (have: "),
        ("smote", {"space": "pixels"}, "smote.space: input should be 'pixel' or 'latent', got 'pixels'"),
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
        ({"kind": "phantom", "n_images": "some"}, "x.n_images: input should be a valid integer"),
        ({"n_images": 3}, "x: want a mapping with 'kind'"),
        (7, "x: want a mapping with 'kind', got 7"),
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
