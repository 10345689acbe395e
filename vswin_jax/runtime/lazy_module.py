"""Modules that are imported at their first use, because most programs do without them."""

import importlib
from typing import Any


class LazyModule:
    """Stands for the module `name`, such as an optional or a slow one, until it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
