"""The library for Parquet files, which is an extra."""

from vswin_jax.errors import InputError


def check_pyarrow() -> None:
    """Check that the library for Parquet files is installed.

    Raises:
      InputError: it is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            "Parquet files need pyarrow, which is not installed: run pip install -e '.[parquet]', "
            "or choose another format."
        ) from error
