"""Fuzzing: any bytes give an object or an `InputError`, quickly and in little memory."""

import io
import pickle
import pickletools
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.weights.files.torch_file import extract_state_dict, read_torch_file

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parents[2] / "data" / "weights"
WRAPPED = ("whole_model.pth", "numpy.pth", "plain_pickle.pkl")
FILES = (*sorted(FIXTURES.glob("*.pth")), *(FIXTURES / "wrapped" / name for name in WRAPPED))
SEEDS = {path.stem: path.read_bytes() for path in FILES}
with zipfile.ZipFile(FIXTURES / "everything_zip.pth") as archive:
    PICKLE = archive.read("everything_zip/data.pkl")

# The examples are the same in every run, so that no failure is by chance. For a wider search, raise
# max_examples and remove derandomize.
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1])
PIECES = st.one_of(
    st.binary(max_size=12),
    NUMBERS.map(lambda number: number.to_bytes(8, "little")),
    NUMBERS.map(lambda number: (number & 0xFFFFFFFF).to_bytes(4, "little")),
    st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes]),
)


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """Overwrite, insert, delete and repeat pieces of `seed`, and perhaps cut off its end."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        # The headers and the directory, at both ends, are the likeliest places of defects.
        place = draw(st.integers(-len(content), len(content)))
        kind = draw(st.sampled_from(["overwrite", "insert", "delete", "repeat"]))
        piece = draw(PIECES)
        place %= len(content) + 1
        if kind == "overwrite":
            content[place : place + len(piece)] = piece
        elif kind == "insert":
            content[place:place] = piece
        elif kind == "delete":
            del content[place : place + len(piece)]
        else:
            content[place:place] = content[place : place + draw(st.integers(1, 300))]
    end = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return bytes(content[:end])


OPCODES = st.lists(
    st.one_of(
        st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes]),
        st.sampled_from(
            [
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch._utils\n_rebuild_tensor_v3\n",
                b"ctorch._tensor\n_rebuild_from_type_v2\n",
                b"ctorch._utils\n_rebuild_parameter\n",
                b"ccollections\nOrderedDict\n",
                b"ctorch\nFloatStorage\n",
                b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x18tQ",
                b"K\0(K\x02K\x03t(K\x03K\x01t\x89N",
                b"X\x06\0\0\0weight",
                b"cos\nsystem\n",
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=40,
).map(b"".join)


def with_pickle(content: bytes) -> bytes:
    """Return a valid zip file with any `data.pkl`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a/data.pkl", content)
        zipped.writestr("a/byteorder", "little")
        for key in range(24):
            zipped.writestr(f"a/data/{key}", bytes(200))
    return file.getvalue()


def with_object(content: bytes) -> bytes:
    """Return a legacy file with any pickle of the object."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(item, 2) for item in head)
    return start + content + pickle.dumps(["0"], 2) + (24).to_bytes(8, "little") + bytes(96)


def outcome(path: Path) -> str:
    """Read the file and all its values, and return the message of an `InputError`, if any."""
    try:
        for value in extract_state_dict(read_torch_file(path), str(path)).values():
            np.array(value)
    except InputError as error:
        return str(error)
    return f"{path} was read"


def read(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        message = outcome(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert str(path) in message
    assert "\n" not in message
    # The expansion limit of a small file is 64 MiB; the rest is for Python objects.
    assert peak < 160 << 20


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
@FUZZ
@given(data=st.data())
def test_mutated_files(seed: str, data: st.DataObject, tmp_path: Path) -> None:
    read(data.draw(mutated(SEEDS[seed])), tmp_path / "fuzz.pth")


@FUZZ
@given(content=mutated(PICKLE))
def test_mutated_pickles_in_a_valid_zip_file(content: bytes, tmp_path: Path) -> None:
    read(with_pickle(content), tmp_path / "fuzz.pth")


@pytest.mark.parametrize("wrap", [with_pickle, with_object])
@FUZZ
@given(content=OPCODES)
def test_random_opcodes(wrap: object, content: bytes, tmp_path: Path) -> None:
    read(wrap(b"}(" + content + b"u."), tmp_path / "fuzz.pth")


@FUZZ
@given(start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"<"]), content=st.binary())
def test_any_bytes(start: bytes, content: bytes, tmp_path: Path) -> None:
    read(start + content, tmp_path / "fuzz.pth")
