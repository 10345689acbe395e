"""An explanation of one video, its settings, and the model that makes it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.inference.explanations.attention_maps import AttentionReader
from vswin_jax.inference.explanations.captured_layers import check_head
from vswin_jax.inference.explanations.clip_maps import scale_to_clip, token_extent
from vswin_jax.inference.explanations.grad_cam import PREDICTED, GradCam
from vswin_jax.inference.trained_model import TrainedModel

METHODS = ("gradcam", "attention")
MIDDLE = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ExplanationSettings:
    """The options of an explanation.

    Attributes:
      method: "gradcam" or "attention".
      stage: counted from 0; by default the last one.
      label: the name of a class, or its number, for Grad-CAM; by default the predicted one.
      block: of the stage, for attention; by default the last one.
      head: for attention; by default the mean of all.
      query: the place (time, height, width, shares of the clip) whose attention is shown.
      time: seconds in the video; by default the clip is the middle test view.
    """

    method: str = "gradcam"
    stage: int | None = None
    label: str | int | None = None
    block: int | None = None
    head: int | None = None
    query: tuple[float, float, float] = MIDDLE
    time: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS, "method")
        others = ("block", "head", "query") if self.method == "gradcam" else ("label",)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in others:
            if getattr(self, name) != defaults[name]:
                raise InputError(
                    f"Expected no {name} for the method {self.method!r} but "
                    f"{getattr(self, name)} came: leave it away, or change the method.",
                    [name],
                )


@dataclass(frozen=True)
class Explanation:
    """The map of one clip.

    Attributes:
      video: the path.
      label: the class that the map explains, or the predicted one for attention.
      probability: of that class, for this clip alone.
      frames: of the clip, as the model gets them.
      tokens: the map, not scaled: one value a token of the stage.
      heat: the map for each pixel, from 0 to 1.
      outline: 1 for pixels of the window whose attention is shown, 2 for those of the query; None
        for Grad-CAM.
      caption: the settings in words.
    """

    video: str
    label: str
    probability: float
    frames: UInt8[np.ndarray, "T H W 3"] = dataclasses.field(repr=False)
    tokens: Float32[np.ndarray, "D h w"] = dataclasses.field(repr=False)
    heat: Float32[np.ndarray, "T H W"] = dataclasses.field(repr=False)
    outline: Float32[np.ndarray, "T H W"] | None = dataclasses.field(default=None, repr=False)
    caption: str = ""


class Explainer:
    """Explains clips by one model with one set of options, compiled once.

    Raises:
      InputError: an option does not fit the model.
    """

    def __init__(self, model: TrainedModel, settings: ExplanationSettings) -> None:
        self.model, self.settings = model, settings
        network = model.model
        self.stage = len(network.depths) - 1 if settings.stage is None else settings.stage
        self._class = class_index(settings.label, model.label_names)
        self._extent = token_extent(network.patch_size, max(0, self.stage))
        if settings.method == "gradcam":
            self._run: Any = GradCam(network, self.stage)
        else:
            self._run = AttentionReader(network, self.stage, settings.block)
            check_head(network, self.stage, settings.head)

    def __call__(
        self, video: str, clip: UInt8[np.ndarray, "1 T H W 3"], label: str | int | None = None
    ) -> Explanation:
        """Explain one clip; `video` names it, and `label` replaces that of the settings.

        Raises:
          InputError: there is no such class.
        """
        if self.settings.method == "gradcam":
            index = self._class if label is None else class_index(label, self.model.label_names)
            return self._grad_cam(video, clip, index)
        return self._attention(video, clip)

    def _grad_cam(self, video: str, clip: np.ndarray, label: int) -> Explanation:
        result = self._run(self.model.params, clip, np.array([label]))
        tokens = np.asarray(result.maps)[0]
        heat = self._scaled(tokens, clip, smooth=True)
        index = int(result.classes[0])
        caption = f"Grad-CAM, stage {self.stage}"
        if not tokens.any():
            caption += "; nothing in the clip raises this class"
        return self._explanation(video, clip, index, tokens, heat, caption=caption)

    def _attention(self, video: str, clip: np.ndarray) -> Explanation:
        settings = self.settings
        window = self._run(self.model.params, clip[0], settings.query)
        tokens = window.token_map(settings.head)
        heat = self._scaled(tokens, clip, smooth=False)
        outline = self._clip_map(window.place, clip, smooth=False)
        head = "mean of the heads" if settings.head is None else f"head {settings.head}"
        caption = f"attention, stage {self.stage}, block {self._run.block}, {head}"
        index = int(window.logits.argmax())
        return self._explanation(video, clip, index, tokens, heat, outline, caption)

    def _explanation(
        self,
        video: str,
        clip: np.ndarray,
        index: int,
        tokens: np.ndarray,
        heat: np.ndarray,
        outline: np.ndarray | None = None,
        caption: str = "",
    ) -> Explanation:
        return Explanation(
            video=video,
            label=self.model.label_names[index],
            probability=float(self.model.probabilities(clip)[0, index]),
            frames=clip[0],
            tokens=tokens,
            heat=heat,
            outline=outline,
            caption=caption,
        )

    def _scaled(self, tokens: np.ndarray, clip: np.ndarray, *, smooth: bool) -> np.ndarray:
        heat = self._clip_map(tokens, clip, smooth=smooth)
        return heat / max(float(heat.max()), np.finfo(np.float32).tiny)

    def _clip_map(self, tokens: np.ndarray, clip: np.ndarray, *, smooth: bool) -> np.ndarray:
        return scale_to_clip(tokens, self._extent, clip.shape[1:4], smooth=smooth)


def class_index(label: str | int | None, names: tuple[str, ...]) -> int:
    """Return the index of a class by its name, or by its number; `PREDICTED` for None.

    Raises:
      InputError: there is no such class.
    """
    if label is None:
        return PREDICTED
    if label in names:
        return names.index(str(label))
    text = str(label)
    if not text.isdecimal():
        raise unknown_name("class", text, names)
    if int(text) < len(names):
        return int(text)
    raise InputError(
        f"Expected a class number from 0 to {len(names) - 1} but {text} came: change it.", ["label"]
    )
