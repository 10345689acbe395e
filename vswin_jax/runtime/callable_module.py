"""Modules that are a command and, called from Python, the function of the same name."""

import importlib
import inspect
import sys
import types
from typing import Any

_ROOM = "vswin_jax.inference"


class CallableModule(types.ModuleType):
    """A module `vswin_jax.verb` whose call is `vswin_jax.inference.verb(...)`.

    It also has the other names of `vswin_jax.inference`, such as those of its results. JAX is
    imported by their first use: it takes seconds, and --help and a wrong argument need none of it.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        """Return what `vswin_jax.inference` has by that name."""
        if not name.startswith("_"):
            room = importlib.import_module(_ROOM)
            if name in room.__all__:
                return getattr(room, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(importlib.import_module(_ROOM), self.__name__.rpartition(".")[2])


def make_callable(module: str) -> None:
    """Make the module of that name, which is being imported, a `CallableModule`."""
    sys.modules[module].__class__ = CallableModule
