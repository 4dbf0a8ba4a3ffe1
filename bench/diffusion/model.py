"""The settings of the diffusion model that a matrix uses: folder, precision, guidance, prompts, sharing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from bench.diffusion import folder as diffusion_folder
from bench.diffusion.pipeline import Diffusion, load_pipeline
from bench.diffusion.prompts import PromptTemplate
from bench.diffusion.schedule import GuidanceScale
from bench.errors import ConfigError, listed, nearest
from bench.paths import counted_from
from bench.pipeline.settings import Settings, not_semantic

SHIPPED = Path(__file__).parents[1] / "assets" / "tiny-diffusion"

PRESETS = Path(__file__).parent / "presets"


class DiffusionModel(Settings):
    """Which diffusion model to use, with the prompts and the guidance that its makers recommend."""

    preset: str | None = not_semantic(
        None, word=True, description="file of bench/diffusion/presets; what is given here wins"
    )
    folder: str = not_semantic("tiny", description="tiny (shipped), a diffusers folder, or a hub id already downloaded")
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    guidance_scale: GuidanceScale = Field(4.0, description="for methods that set none of their own; 1 is none")
    prompt: PromptTemplate = PromptTemplate()
    sharing: Literal["open", "credentialed"] = not_semantic(
        "open",
        word=True,
        description="whether its training data is open or credentialed; its images are treated the same way. A folder "
        "without this setting is credentialed",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if not isinstance(name := given.get("preset"), str):
            return {"sharing": "credentialed"} | given if given.get("folder", "tiny") != "tiny" else given
        preset = _preset(name)
        if "folder" not in {**preset, **given}:
            raise ValueError(f"preset '{name}' cannot know where your weights are; give diffusion.folder as well")
        if given.get("folder", preset.get("folder")) != preset.get("folder"):
            # The preset's `open` is about its own weights. Weights from another folder may have learnt from
            # credentialed images, and could leak them.
            preset = preset | {"sharing": "credentialed"}
        words = {"prompt": preset["prompt"] | given["prompt"]} if _both_have_prompt(preset, given) else {}
        return preset | given | words

    @classmethod
    def is_place(cls, field: str, value: str) -> bool:
        """Tell whether a text in a field is a path. The shipped model and models of the hub are called by name."""
        return super().is_place(field, value) and value != "tiny" and diffusion_folder.hub_snapshot(value) is None

    def content(self) -> dict[str, str]:
        """Return the digest of the weights and configuration files. It is part of the key, instead of the path."""
        return {"digest": diffusion_folder.digest(self.path)}

    def for_encoding(self) -> DiffusionModel:
        """Return the model with the default prompt and guidance, which latents do not depend on."""
        plain = {name: type(self).model_fields[name].default for name in ("guidance_scale", "prompt")}
        return self.model_copy(update=plain)

    @property
    def path(self) -> Path:
        """Return the local folder.

        Raises:
            ConfigError: if there is no folder with a `model_index.json`.
        """
        path = SHIPPED if self.folder == "tiny" else Path(self.folder).expanduser()
        if not (path / "model_index.json").is_file():
            hub = diffusion_folder.hub_snapshot(self.folder)
            if hub is None:
                raise ConfigError(
                    f"diffusion.folder: '{self.folder}' has no model_index.json{counted_from(path)}; give a "
                    "StableDiffusionPipeline folder, a hub id that is already downloaded, or 'tiny' "
                    "(made by `bench pretrain diffusion`)"
                )
            return hub
        return path

    @property
    def is_named(self) -> bool:
        """Whether the settings say which model it is. If not, it is the shipped one, which has seen phantoms alone."""
        return not {"folder", "preset"}.isdisjoint(self.model_fields_set)

    def load(self, device: str = "cpu", colour: bool = False) -> Diffusion:
        """Return the model on `device`, ready to run. Its weights are read once per process.

        With `colour` it decodes images with colour, else grey ones.
        """
        pipeline, fit = load_pipeline(str(self.path), self.precision, device)
        return Diffusion(pipeline, device, self.prompt, self.guidance_scale, fit, colour)


def _preset(name: str) -> dict[str, Any]:
    import yaml

    known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"preset: no preset '{name}'{nearest(name, known)} (have: {listed(known)})")
    return dict(yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8")))


def _both_have_prompt(preset: dict[str, Any], given: dict[str, Any]) -> bool:
    return isinstance(preset.get("prompt"), dict) and isinstance(given.get("prompt"), dict)
