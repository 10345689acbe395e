"""Imports the modules of a user that register augmentations, attention layers and data formats.

They are named by the user's own command line or experiment file. Those in a checkpoint's config are
not imported when it is only read: nothing in a checkpoint is executed.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from vswin_jax.errors import InputError
from vswin_jax.runtime.registry import UnregisteredError


def import_plugins(plugins: str) -> None:
    """Import the modules that `plugins` names, separated by commas.

    The current directory is searched too, after all others.

    Raises:
      InputError: there is no such module, or it imports one that is missing.
    """
    if plugins:
        search_folder(os.getcwd())
    for name in _split(plugins):
        _check_name(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(_describe(name, error)) from error


def search_folder(folder: str) -> None:
    """Let modules in `folder` be imported, here and in the processes that decode clips."""
    folder = os.path.abspath(folder)
    if folder not in sys.path:
        # At the end, so that no file there hides a module of a library.
        sys.path.append(folder)


@contextlib.contextmanager
def name_plugins(plugins: str) -> Iterator[None]:
    """Name the modules in the error for a name that is not registered, if they are not imported.

    `plugins` is that of a config, maybe of a checkpoint.
    """
    try:
        yield
    except UnregisteredError as error:
        modules = _split(plugins)
        if not modules or any(name not in sys.modules for name in modules):
            raise UnregisteredError(error.sentence, ",".join(modules), error.names) from None
        if "did you mean" in error.sentence:
            raise InputError(error.sentence, error.names) from None
        raise


def _split(plugins: str) -> list[str]:
    return [name for part in plugins.split(",") if (name := part.strip())]


def _check_name(name: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"Expected config.plugins to be modules as in `import my_package.my_module` but "
            f"{name!r} came: give a name without a path, and start from its folder or add that to "
            f"PYTHONPATH."
        )
    if name.endswith(".py"):
        raise InputError(
            f"Expected config.plugins to be modules as in `import my_module` but {name!r} is a "
            f"file: leave out the suffix."
        )


def _describe(name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or ""
    if name == missing or name.startswith(f"{missing}."):
        return (
            f"Expected config.plugins to name modules that can be imported but there is no "
            f"{missing!r}: start from the folder that holds it, add that to PYTHONPATH, or install "
            f"it."
        )
    return f"The plugin {name!r} imports {missing!r}, which is not installed: install it."
