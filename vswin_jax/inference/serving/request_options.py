"""The options in the address of a request, such as ?topk=3&name=clip.mp4."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.inference.serving.refused_request import RefusedRequest

# The expected value of a number, in words.
_PHRASES: Mapping[Callable[[str], Any], str] = {int: "a whole number", float: "a number"}


def read_options(request: Request, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the options that are given; `kinds` has the type of each.

    Raises:
      RefusedRequest: one is unknown, or no number.
    """
    options = {}
    for name, text in request.query_params.items():
        with refuse_input(400):
            if name not in kinds:
                raise unknown_name("option", name, kinds)
            options[name] = _parse(name, text, kinds[name])
    return options


def _parse(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InputError(
            f"Expected {name} to be {_PHRASES[kind]} but {text!r} came: change it."
        ) from None


@contextlib.contextmanager
def refuse_input(status: int) -> Iterator[None]:
    """Re-raise an `InputError` of the block as a `RefusedRequest` with this status of HTTP."""
    try:
        yield
    except InputError as error:
        raise RefusedRequest(status, str(error)) from error
