"""JSON files of benchmark results, written atomically."""

import json
from pathlib import Path
from typing import Any

from vswin_jax.runtime.atomic_write import atomic_write


def read_json(path: Path | None, default: Any) -> Any:
    """Return the content of the file, or `default` without a path or without a file."""
    return json.loads(path.read_text()) if path and path.exists() else default


def write_json(path: Path | None, content: Any, indent: int = 1) -> None:
    """Write `content` to the file, whose folder is created; do nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=indent) + "\n")
