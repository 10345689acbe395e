"""Registered augmentations of a clip, as a config lists them: `config.data.augmentations`.

They run on the host, in the order of the list, after the published recipe's own crop, flip and
RandAugment, on what the model will see: uint8 RGB `[T, size, size, 3]`. Each draws from a generator
of its own, a function of the seed, the epoch, the example, its name and its occurrence in the list;
so an augmentation that is added changes the draws of no other one, and those of the published
recipes least of all.
"""

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.pipeline.sampler import named_rng
from vswin_jax.errors import InputError
from vswin_jax.runtime.registry import Choice, Registry, build, is_importable

Clip = UInt8[np.ndarray, "T H W 3"]
# Returns a clip, or a clip and True if it is a mirror image of the one that came.
ClipFunction = Callable[[np.ndarray, np.random.Generator], Any]
Registered = TypeVar("Registered", bound=Callable[..., Any])

KEY = "config.data.augmentations"
AUGMENTATIONS: Registry[Callable[..., Any]] = Registry(
    "augmentation", KEY, of_function=2, shared=["p"]
)


class AugmentationError(InputError):
    """An error of an augmentation's own code: it ends the run, where a bad video is replaced."""


def register_augmentation(name: str) -> Callable[[Registered], Registered]:
    """Register an augmentation under `name`: a decorator of a frozen dataclass or a function.

    A dataclass has the options as its fields and is called with `(clip, rng)`; a function takes
    `(clip, rng)` and then the options. All frames of a clip are given at once, uint8 RGB
    `[T, H, W, 3]`, and come back in the same size and type. One that mirrors the clip returns
    `(clip, True)`, for `config.data.flip_labels`. Each also has the option `p`, the probability
    that a clip is augmented at all (1).
    """

    def register(target: Registered) -> Registered:
        if inspect.isclass(target):
            _check_class(name, target)
        if "p" in AUGMENTATIONS.parameters(target):
            raise InputError(
                f"The augmentation {name!r} has an option 'p', which every augmentation has "
                f"already, as the probability that it is applied: give its own another name."
            )
        return AUGMENTATIONS.add(name, target)

    return register


def _check_class(name: str, target: type) -> None:
    parameters = getattr(target, "__dataclass_params__", None)
    if not (is_dataclass(target) and parameters.frozen):
        raise InputError(
            f"Expected the augmentation {name!r} to be a frozen dataclass, since one that changes "
            f"cannot be resumed: write @dataclass(frozen=True) below @register_augmentation."
        )


@dataclass(frozen=True)
class AugmentationStep:
    """One augmentation of the list.

    Attributes:
      name: the name in the registry.
      occurrence: earlier places of the same name in the list.
      p: the probability that a clip is augmented.
      function: the augmentation with its options.
      options: the options as the config has them, for display.
    """

    name: str
    occurrence: int
    p: float
    function: ClipFunction
    options: str = field(default="", compare=False)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> tuple[Clip, bool]:
        """Return the clip, and True if it was mirrored; `rng` is the clip's and is not drawn from.

        Raises:
          AugmentationError: the function fails, or returns another shape or type.
        """
        own = named_rng(rng, self.name, self.occurrence)
        if own.random() >= self.p:
            return clip, False
        return self.apply(clip, own)

    def apply(self, clip: Clip, rng: np.random.Generator) -> tuple[Clip, bool]:
        """Augment the clip whatever `p` is, with the draws of `rng`."""
        shape = clip.shape
        try:
            result = self.function(clip, rng)
        except MemoryError:
            raise
        except Exception as error:
            raise AugmentationError(self._describe(error)) from error
        result, mirrored = result if isinstance(result, tuple) else (result, False)
        self._check_result(result, shape)
        return result, bool(mirrored)

    def describe_options(self) -> str:
        """Return the options that were given and the probability, for display."""
        return ", ".join(filter(None, [self.options, f"probability {self.p:g}"]))

    def _describe(self, error: Exception) -> str:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"The augmentation {self.name!r} of {KEY} fails with {type(error).__name__}: {error} "
            f"({line.filename}, line {line.lineno}): correct it, or take it off the list."
        )

    def _check_result(self, result: object, shape: tuple[int, ...]) -> None:
        if not isinstance(result, np.ndarray):
            found = f"a {type(result).__name__}"
        elif result.dtype != np.uint8 or result.shape != shape:
            found = f"{result.dtype} {list(result.shape)}"
        else:
            return
        raise AugmentationError(
            f"Expected the augmentation {self.name!r} of {KEY} to return a clip of uint8 "
            f"{list(shape)}, as it came, but it returned {found}: correct it."
        )


def build_augmentations(entries: object) -> tuple[AugmentationStep, ...]:
    """Build the augmentations that `config.data.augmentations` lists.

    Raises:
      InputError: a name that is not registered, or wrong options.
    """
    choices = AUGMENTATIONS.parse(entries)
    names = [choice.name for choice in choices]
    return tuple(
        _build_step(choice, names[:index].count(choice.name))
        for index, choice in enumerate(choices)
    )


def _build_step(choice: Choice, occurrence: int) -> AugmentationStep:
    given = choice.without("p")
    function = build(AUGMENTATIONS, given, _make_function)
    options = ", ".join(f"{key} {value}" for key, value in given.options.items())
    return AugmentationStep(choice.name, occurrence, _probability(choice), function, options)


def _make_function(entry: Callable[..., Any], options: dict[str, Any]) -> ClipFunction:
    return entry(**options) if inspect.isclass(entry) else partial(entry, **options)


def _probability(choice: Choice) -> float:
    p = choice.options.get("p", 1.0)
    if not isinstance(p, int | float) or isinstance(p, bool) or not 0 <= p <= 1:
        raise InputError(
            f"Expected option 'p' of the augmentation {choice.name!r} to be a probability from 0 "
            f"to 1 but {p!r} came: correct it."
        )
    return float(p)


def check_importable(steps: Sequence[AugmentationStep]) -> None:
    """Refuse augmentations that decoding processes cannot import.

    Raises:
      InputError: one was defined in a program, an experiment file or a function.
    """
    for step in steps:
        function = step.function.func if isinstance(step.function, partial) else type(step.function)
        if not is_importable(function):
            raise InputError(
                f"The augmentation {step.name!r} is defined in a program, an experiment file or a "
                f"function, from where decoding processes cannot import it: move it to the top of "
                f"a module and import that, or set config.data.processes to 0."
            )
