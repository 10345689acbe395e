"""The registry of attention layers, which `config.model.attention_layer` chooses from.

A registered layer is one Flax module: it takes tokens in windows and the geometry of the windows,
and returns tokens in the same places. "reference" is the layer of the paper, and the only one that
the fast paths around it know: the fused kernels of the other layers of a block, which take its
parameters, and the groups of windows or heads that save memory on a CPU. A block with another layer
runs without them, and the log says so. Tokens in window order, the kernels of attention itself (if
the layer calls `AttentionLayer.attend`), rematerialisation and sharding stay.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from flax import linen as nn

from vswin_jax.errors import InputError
from vswin_jax.runtime.registry import Choice, Registry, build

log = logging.getLogger(__name__)
Layer = TypeVar("Layer", bound=type[nn.Module])

KEY = "config.model.attention_layer"
REFERENCE = "reference"
# Of a class the first two parameters are `num_heads` and `settings`.
ATTENTION_LAYERS: Registry[type[nn.Module]] = Registry("attention layer", KEY, of_class=2)


def register_attention(name: str) -> Callable[[Layer], Layer]:
    """Register an attention layer under `name`: a decorator of a subclass of `AttentionLayer`.

    The fields of the class, which need types, are the layer's options.
    """

    def register(layer: Layer) -> Layer:
        _check_fields(name, layer)
        return ATTENTION_LAYERS.add(name, layer)

    return register


def _check_fields(name: str, layer: type[nn.Module]) -> None:
    if list(getattr(layer, "__dataclass_fields__", ()))[:2] != ["num_heads", "settings"]:
        raise InputError(
            f"Expected the attention layer {name!r} to be a class that begins with the fields "
            f"num_heads and settings: derive {getattr(layer, '__name__', layer)} from "
            f"vswin_jax.models.AttentionLayer."
        )


@functools.cache
def parse_attention_layer(text: str) -> Choice:
    """Parse the name of a layer with its options, such as "cosine(max_scale=50)".

    Raises:
      InputError: it is not one registered layer, or the options are wrong.
    """
    choices = ATTENTION_LAYERS.parse(text)
    if len(choices) != 1:
        raise InputError(f"Expected one attention layer but {text!r} came: name one.")
    ATTENTION_LAYERS.options(choices[0])
    return choices[0]


def is_reference(text: str) -> bool:
    """Return True for the layer of the paper."""
    return parse_attention_layer(text).name == REFERENCE


def build_attention_layer(text: str, num_heads: int, settings: Any) -> nn.Module:
    """Build the attention layer of a block of `num_heads` heads and these `BlockSettings`."""

    def make(layer: type[nn.Module], options: dict[str, Any]) -> nn.Module:
        return layer(num_heads, settings, **options)

    return build(ATTENTION_LAYERS, parse_attention_layer(text), make)


def allows_fast_path(text: str, fast_path: str) -> bool:
    """Return True for the layer of the paper; for others the log gets a line, once."""
    if is_reference(text):
        return True
    _log_fallback(text, fast_path)
    return False


@functools.cache
def _log_fallback(text: str, fast_path: str) -> None:
    log.info(
        "%s is not used: it computes the attention layer '%s' alone, and this model has '%s'",
        *(fast_path, REFERENCE, text),
    )
