"""Errors of a full disk."""

import errno
import os
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.disk_full import disk_full_reason, format_bytes, reraise_disk_full

# The texts of TensorStore and TensorFlow.
IN_CPP = ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes to file 4 [os_error_code='28']")
IN_WORDS = RuntimeError("/runs/events.out; No space left on device")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), IN_CPP, IN_WORDS]
)
def test_the_errors_of_a_full_disk_are_recognised(error: Exception, tmp_path: Path) -> None:
    reason = os.strerror(getattr(error, "errno", None) or errno.ENOSPC)
    assert disk_full_reason(error) == reason
    with (
        pytest.raises(InputError) as refusal,
        reraise_disk_full(tmp_path / "not" / "there", lambda: "go on"),
    ):
        raise error
    message = str(refusal.value)
    assert message.startswith(f"The disk of '{tmp_path}/not/there' is full ({reason}; ")
    assert message.endswith("B free): make room there; go on.")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 28 bytes."),
        ValueError("NOT_FOUND: no such file [os_error_code='2']"),
        InputError("No space left on device is reported already."),
    ],
)
def test_other_errors_pass_unchanged(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, reraise_disk_full(tmp_path, lambda: "go on"):
        raise error
    assert raised.value is error


def test_sizes_have_decimal_units() -> None:
    sizes = (0, 1_400, 999_000, 2_500_000, 3_600_000_000, 1_024_000_000_000)
    assert [*map(format_bytes, sizes)] == ["0 kB", "1 kB", "999 kB", "2 MB", "4 GB", "1,024 GB"]
