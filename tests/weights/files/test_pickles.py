"""Pickles that try to call, import or change something or to exhaust memory have no effect."""

import copyreg
import os
import pickle
import struct
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vswin_jax.weights.files import pickles
from vswin_jax.weights.files.byte_reader import ByteReader
from vswin_jax.weights.files.pickles import OpaqueObject, read_pickle
from vswin_jax.weights.files.tensors import Storage, TensorBuilder, storage_id

MAX_READ = 256 << 20
STORAGE = Storage(np.arange(6, dtype=np.float32).view(np.uint8), np.dtype(np.float32))


def read(content: bytes, persistent: Callable[[object], object] = storage_id) -> Any:
    builders = TensorBuilder(max_bytes=1 << 30).builders()
    return read_pickle(ByteReader(content, MAX_READ), builders, persistent)


def read_tensor(arguments: tuple, function: str = "_rebuild_tensor_v2") -> Any:
    """Build a tensor from `arguments` after a storage."""
    rest = b"".join(pickle.dumps(item, 0)[:-1] for item in arguments)
    content = f"ctorch._utils\n{function}\n(Pid\n".encode() + rest + b"tR."
    return read(content, lambda _: STORAGE)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_as_by_pickle(protocol: int) -> None:
    data = {
        "numbers": [0, -1, 255, 70_000, -(2**31), 2**63, 10**100, 1.5, float("inf"), True, None],
        "text": ["", "a\nb\\", "\u00e9\U0001f600", "x" * 300, "y" * 70_000],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "nested": {1: {"a": [{}]}, 2.5: None, None: (), False: []},
        "ordered": OrderedDict(b=1, a=2),
    }
    data["again"] = data["nested"]
    loaded = read(pickle.dumps(data, protocol))
    assert loaded == data
    assert loaded["again"] is loaded["nested"]


def test_bytes_and_sets() -> None:
    data = [b"", b"ab", b"c" * 300, b"d" * 70_000, bytearray(b"e"), {1}, frozenset((2,))]
    assert read(pickle.dumps(data, 5)) == [*data[:5], [1], (2,)]


class ShellCommand:
    """Pickles as a call of `os.system`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_not_made(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"weights": 1, "evil": ShellCommand(tmp_path / "ran")}, protocol)
    loaded = read(content)
    assert loaded["weights"] == 1
    assert loaded["evil"].name.endswith("system")
    assert not list(tmp_path.iterdir())
    pickle.loads(content)
    assert list(tmp_path.iterdir()), "the pickle of this test must run the command in pickle.loads"


@pytest.mark.parametrize(
    "content",
    [
        b"(S'touch {}'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch {}'\no.",
        b"cos\nsystem\n(S'touch {}'\ntR.",
        b"cos\nsystem\n(S'touch {}'\nt\x81.",
        b"cos\nsystem\n(S'touch {}'\nt}\x92.",
        b"S'os'\nS'system'\n\x93(S'touch {}'\ntR.",
        b'cbuiltins\nexec\n(S\'open("{}", "w")\'\ntR.',
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n(S'touch {}'\ntRtR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncx\ny\n(S'touch {}'\ntNtR.",
    ],
    ids=["INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "exec", "inside", "type"],
)
def test_no_calling_opcode_calls_anything(tmp_path: Path, content: bytes) -> None:
    try:
        loaded = read(content.replace(b"{}", str(tmp_path / "ran").encode()))
    except ValueError:
        loaded = OpaqueObject("refused")
    assert isinstance(loaded, OpaqueObject)
    assert not list(tmp_path.iterdir())


def test_a_global_is_not_imported() -> None:
    assert "this" not in sys.modules
    assert read(b"cthis\ns\n.").name == "this.s"
    assert "this" not in sys.modules


def test_the_extension_registry_is_not_used() -> None:
    copyreg.add_extension("os", "system", 250)
    try:
        assert read(b"\x82\xfa.").name == "extension"
    finally:
        copyreg.remove_extension("os", "system", 250)


@pytest.mark.parametrize(
    "target", ["ctorch._utils\n_rebuild_tensor_v2\n", "ccollections\nOrderedDict\n", "cx\ny\n"]
)
def test_object_state_does_not_change_our_classes(target: str) -> None:
    before = dict(vars(OpaqueObject)), dict(vars(TensorBuilder))
    content = f"{target}(N(S'name'\nS'changed'\nS'_tensor'\nNdtb.".encode()
    assert read(content).name == target[1:].replace("\n", ".").strip(".")
    assert (dict(vars(OpaqueObject)), dict(vars(TensorBuilder))) == before


def test_state_appends_and_items_of_opaque_objects_and_tensors_are_ignored() -> None:
    assert read(b"cx\ny\n)R(S'a'\nI1\ndbI1\naS'a'\nI1\ns(I1\ne(S'a'\nI1\nu.").name == "x.y"
    tensor = read(
        b"ctorch._utils\n_rebuild_tensor\n(Pid\nI0\n(I2\nt(I1\nttR(I1\n(I2\ntNI00\nS'aaaa'\ntb.",
        lambda _: STORAGE,
    )
    np.testing.assert_array_equal(tensor, [0, 1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"0.",
        b"t.",
        b"a.",
        b"s.",
        b"R.",
        b"}(I1\nu.",
        b"h\x05.",
        b"\x8c\x05abc",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"B\xff\xff\xff\x7fabc.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\xff.",
        b"I1\nI2\nR.",
        b"I1\n)R.",
        b"I1\nI2\n\x93.",
        b"Pid\n.",
        b"NQ.",
        b"\x97.",
        b"]p-1\n.",
        b"]p" + b"9" * 100 + b"\n.",
        b"]r\xff\xff\xff\x7f.",
        b"I" + b"9" * 5000 + b"\n.",
        b"F" + b"x" * 5000 + b"\n.",
        b"c" + b"x" * 300 + b"\ny\n.",
        b"ccollections\nOrderedDict\n(]tR.",
    ],
)
def test_damaged_pickles_are_value_errors(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - many reasons, some of them from pickletools
        read(content)


@pytest.mark.parametrize(
    ("size", "stride", "offset", "expected"),
    [
        ((2, 3), (3, 1), 0, [[0, 1, 2], [3, 4, 5]]),
        ((3, 2), (1, 3), 0, [[0, 3], [1, 4], [2, 5]]),
        ((2,), (2,), 1, [1, 3]),
        ((), (), 5, 5),
        ((2, 2), (0, 1), 4, [[4, 5], [4, 5]]),
        ((1,), (2**60,), 5, [5]),
        ((0, 7), (7, 1), 0, np.empty((0, 7))),
    ],
)
def test_tensors_have_the_expected_values(
    size: tuple, stride: tuple, offset: int, expected: object
) -> None:
    tensor = read_tensor((offset, size, stride, False, None))
    np.testing.assert_array_equal(tensor, np.asarray(expected, np.float32), strict=True)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (7,), (1,)),
        (6, (), ()),
        (0, (2,), (6,)),
        (0, (2, 3), (3, 2)),
        (-1, (2,), (1,)),
        (3, (3,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 3), (1,)),
        (0, (2.0,), (1,)),
        (0, [2], [1]),
        (None, (2,), (1,)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (2**40,), (0,)),
        (0, (10**1000,), (0,)),
        (0, (1,) * 65, (1,) * 65),
        (0,),
    ],
)
def test_tensors_never_leave_their_storage(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"its tensors|its pickle"):
        read_tensor((*arguments, False, None))


def test_a_conjugated_tensor_is_opaque() -> None:
    assert read_tensor((0, (2,), (1,), False, None, {})).shape == (2,)
    assert isinstance(read_tensor((0, (2,), (1,), False, None, {"conj": True})), OpaqueObject)


@pytest.mark.parametrize(
    "persistent",
    [
        b"(S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI6\nt",
        b"(S'storage'\nctorch\nTensor\nS'0'\nS'cpu'\nI6\nt",
        b"(S'storage'\nctorch\nFloatStorage\nI0\nS'cpu'\nI6\nt",
        b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI-6\nt",
        b"(S'module'\nt",
        b"N",
    ],
)
def test_invalid_storages_are_value_errors(persistent: bytes) -> None:
    with pytest.raises(ValueError, match=r"its tensors|its pickle"):
        read(persistent + b"Q.")


def nested_pairs(levels: int) -> bytes:
    """Return a pickle of nested pairs of the same pair, whose hash takes 2^levels steps."""
    return b")" + b"2\x86" * levels


def colliding_numbers(count: int) -> bytes:
    """Return opcodes for numbers with equal hashes; a dict of them takes count^2 steps."""
    return b"".join(b"\x8a\x10" + ((2**61 - 1) * n).to_bytes(16, "little") for n in range(count))


@pytest.mark.long
@pytest.mark.parametrize(
    "content",
    [
        b"}" + nested_pairs(200) + b"Ns.",
        b"\x8f(" + nested_pairs(200) + b"\x90.",
        b"(" + nested_pairs(200) + b"\x91.",
        b"}(" + colliding_numbers(20_000) + b"u.",
        b"]" * 50_000 + b"a" * 49_999 + b".",
        b")" + b"\x85" * 50_000 + b".",
        b"]q\x00h\x00a.",
        b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(70_000)) + b"u.",
        b"(" * 50_000 + b".",
    ],
    ids=["key", "set", "frozenset", "collisions", "lists", "tuples", "cycle", "numbers", "marks"],
)
def test_pickle_bombs_take_little_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        read(content)
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.filterwarnings("error")
def test_a_damaged_name_gives_no_warning() -> None:
    assert read(b"ca\\h\ny\n.").name == r"a\h.y"


def test_the_number_of_operations_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MAX_OPCODES", 10)
    assert read(b"N" * 10 + b".") is None
    with pytest.raises(ValueError, match="over 10 operations"):
        read(b"N" * 11 + b".")


def test_a_length_beyond_the_data_allocates_no_memory() -> None:
    tracemalloc.start()
    for opcode in (b"\x8e", b"\x8d", b"\x96"):
        with pytest.raises(ValueError, match="expected"):
            read(opcode + struct.pack("<Q", 1 << 40) + b"x" * 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_length_of_a_read_is_limited() -> None:
    with pytest.raises(ValueError, match="single piece of 11 bytes"):
        ByteReader(bytes(12), max_read=10).read(11)
    assert ByteReader(bytes(12), max_read=12).read(20) == bytes(12)
