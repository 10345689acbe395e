"""The libraries of the server, which are an extra."""

from vswin_jax.errors import InputError


def check_web_libraries() -> None:
    """Check that the libraries of the server are installed.

    Raises:
      InputError: one is missing.
    """
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Serving a model needs Starlette, uvicorn and python-multipart, and {error.name} is "
            f"not installed: run pip install -e '.[demo]'."
        ) from error
