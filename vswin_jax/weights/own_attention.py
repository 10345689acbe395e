"""Parameters of registered attention layers, which published weights do not have."""

from collections.abc import Iterable

from vswin_jax.models import SwinTransformer3D
from vswin_jax.models.attention_registry import is_reference

_REFERENCE = ("qkv.", "proj.", "relative_position_bias_table")


def own_parameters(model: SwinTransformer3D, names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical `names` that only the attention layer of `model` has.

    They may start fresh when a model is fine-tuned from published weights.
    """
    return tuple(name for name in _of_attention(model, names) if not _is_published(name))


def replaced_parameters(
    model: SwinTransformer3D, state: Iterable[str], names: Iterable[str]
) -> tuple[str, ...]:
    """Return the names in `state` of the paper's attention that the layer of `model` does without.

    `names` are those of the model's parameters.
    """
    known = set(names)
    return tuple(n for n in _of_attention(model, state) if _is_published(n) and n not in known)


def _of_attention(model: SwinTransformer3D, names: Iterable[str]) -> list[str]:
    if is_reference(model.attention_layer):
        return []
    return [name for name in names if ".attn." in name]


def _is_published(name: str) -> bool:
    return name.partition(".attn.")[2].startswith(_REFERENCE)
