"""Checks that saved arrays match those of a model or a run, by path and shape."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from vswin_jax.errors import InputError


def check_same_run(saved: Any, abstract: Any, directory: epath.Path) -> None:
    """Check that the tree `saved` in `directory` has the paths and shapes of `abstract`.

    Raises:
      InputError: names the first array that is missing, unexpected or of another shape.
    """
    difference = _first_difference(_shapes(saved), _shapes(abstract))
    if difference:
        raise InputError(
            f"The checkpoint '{directory}' is not of this run: {difference}; start with the config "
            f"that it was saved with, or in an empty directory."
        )


def check_matches(params: Any, model_params: Any, source: str = "The checkpoint") -> None:
    """Check that `params` fit a model whose parameters, or their shapes, are `model_params`.

    Raises:
      InputError: names the first parameter that is missing, unexpected or of another shape.
    """
    difference = _first_difference(_shapes(params), _shapes(model_params))
    if difference:
        raise InputError(
            f"{source} is of another model: {difference}; give the model the settings that it was "
            f"made with, or another checkpoint."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _first_difference(
    saved: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> str | None:
    for path in sorted(saved.keys() | expected.keys()):
        if path not in saved:
            return f"it has no '{path}', which this model has with shape {expected[path]}"
        if path not in expected:
            return f"it has '{path}' of shape {saved[path]}, which this model does not have"
        if saved[path] != expected[path]:
            return f"'{path}' has shape {saved[path]} in it and {expected[path]} in this model"
    return None
