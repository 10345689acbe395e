"""Pickles read as data: a small machine that knows the opcodes and calls nothing from outside.

Python's own `Unpickler`, restricted or not, still runs what it finds: BUILD calls `__setstate__`
or writes into `__dict__`, APPEND calls `append`, EXT looks into a registry of imports, and a memo
index of a few bytes takes gigabytes. Here a global is only its name, and what the file would
build from it is that name again, unless the caller has a builder of its own for it.

Time and memory are bounded by the file: every opcode costs a constant, there is a most of them,
and what may cost more than it looks (hashes of nested tuples, of colliding numbers) is avoided.
"""

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vswin_jax.weights.files.byte_reader import ByteReader

# Checkpoints with an optimizer and a history have below 100,000 opcodes.
_MOST_OPCODES = 1_000_000
_LONGEST_NAME = 256
_LONGEST_KEY = 1000
# Numbers can be chosen to collide in a dict, which makes filling it quadratic; text cannot.
_MOST_NUMBER_KEYS = 65_536


@dataclass(frozen=True, eq=False, slots=True)
class Foreign:
    """What stands where the file has a class, a function or an object made by one: its name."""

    name: str


Builder = Callable[[tuple[Any, ...]], object]


def read_pickle(
    reader: ByteReader,
    builders: Mapping[str, Builder],
    persistent: Callable[[object], object],
) -> object:
    """The object of the pickle at the reader's position, which then moves behind the pickle.

    Args:
      reader: the bytes; a pickle that ends later than they do is damaged.
      builders: by qualified name, what makes an object from the arguments the file gives. They
        raise ValueError for arguments that they cannot use.
      persistent: makes the object of a persistent id; raises ValueError too.

    Returns:
      Plain dicts, lists (sets too), tuples, text, bytes and numbers, what the builders made, and
      a `Foreign` for everything else. Whatever the file does to a `Foreign` leaves no trace.

    Raises:
      ValueError: the bytes are no pickle, or one beyond the limits above; the message says why.
    """
    # pickletools warns of the backslashes in a damaged name.
    with warnings.catch_warnings(action="ignore"):
        try:
            return _run(reader, _Machine(builders, persistent))
        except (IndexError, KeyError):
            raise ValueError("its pickle takes what is not there") from None


def _run(reader: ByteReader, machine: "_Machine") -> object:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(reader)):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if count >= _MOST_OPCODES:
            raise ValueError(f"its pickle has over {_MOST_OPCODES} operations")
        _BY_NAME[opcode.name](machine, argument)
    raise ValueError("its pickle has no end")


class _Machine:
    """The stack and the memo; one method for each kind of opcode."""

    def __init__(
        self, builders: Mapping[str, Builder], persistent: Callable[[object], object]
    ) -> None:
        self.builders = builders
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, object] = {}
        self.names: dict[tuple[str, str], Foreign] = {}
        self.number_keys = 0

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def remember(self, index: int | None) -> None:
        index = len(self.memo) if index is None else index
        # Writers count up; the bound keeps numbers out that were chosen to collide.
        if not 0 <= index < _MOST_OPCODES:
            raise ValueError("its pickle remembers under a number out of all order")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        self.stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def append(self, _: object) -> None:
        self.extend([self.stack.pop()])

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("its pickle has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self.key(key)] = value

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def dict_since_mark(self, _: object) -> None:
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    def key(self, key: Any) -> Any:
        """`key`, or where its hash or comparison could take long, a placeholder for it."""
        if isinstance(key, str | bytes):
            return key if len(key) <= _LONGEST_KEY else Foreign("key")
        if key is None or isinstance(key, Foreign):
            return key
        if isinstance(key, float) or (isinstance(key, int) and key.bit_length() <= 64):
            self.number_keys += 1
            if self.number_keys > _MOST_NUMBER_KEYS:
                raise ValueError(f"its pickle has over {_MOST_NUMBER_KEYS} numbers as keys")
            return key
        return Foreign("key")

    def look_up(self, module: object, name: object) -> Foreign:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle names a class by what is no text")
        if max(len(module), len(name)) > _LONGEST_NAME:
            raise ValueError("its pickle names a class with too long a name")
        return self.names.setdefault((module, name), Foreign(f"{module}.{name}"))

    def global_(self, pair: str) -> None:
        module, _, name = pair.partition(" ")
        self.push(self.look_up(module, name))

    def global_from_stack(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.look_up(module, name))

    def build(self, what: object, arguments: object) -> None:
        if not (isinstance(what, Foreign) and isinstance(arguments, tuple)):
            raise ValueError("its pickle calls what is no function")
        builder = self.builders.get(what.name)
        self.push(builder(arguments) if builder else what)

    def reduce(self, _: object) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.build(what, arguments)

    def new_with_keywords(self, _: object) -> None:
        self.stack.pop()
        self.reduce(_)

    def instance(self, pair: str) -> None:
        arguments = tuple(self.since_mark())
        self.global_(pair)
        self.build(self.stack.pop(), arguments)

    def object_(self, _: object) -> None:
        what, *arguments = self.since_mark() or [None]
        self.build(what, tuple(arguments))

    def refuse(self, _: object) -> None:
        raise ValueError("its pickle keeps buffers elsewhere")


# fmt: off
_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
)
_OPERATIONS: dict[tuple[str, ...], Callable[[_Machine, Any], object]] = {
    _CONSTANTS: _Machine.push,
    ("PROTO", "FRAME"): lambda machine, _: None,
    ("NONE",): lambda machine, _: machine.push(None),
    ("NEWTRUE",): lambda machine, _: machine.push(True),
    ("NEWFALSE",): lambda machine, _: machine.push(False),
    ("EMPTY_TUPLE",): lambda machine, _: machine.push(()),
    ("EMPTY_DICT",): lambda machine, _: machine.push({}),
    # A set hashes what the file built; a list holds the same.
    ("EMPTY_LIST", "EMPTY_SET"): lambda machine, _: machine.push([]),
    ("MARK",): _Machine.mark,
    ("POP",): _Machine.pop,
    ("POP_MARK",): lambda machine, _: machine.since_mark(),
    ("DUP",): lambda machine, _: machine.push(machine.stack[-1]),
    ("LIST",): lambda machine, _: machine.push(machine.since_mark()),
    ("TUPLE", "FROZENSET"): lambda machine, _: machine.push(tuple(machine.since_mark())),
    ("TUPLE1",): lambda machine, _: machine.tuple_of(1),
    ("TUPLE2",): lambda machine, _: machine.tuple_of(2),
    ("TUPLE3",): lambda machine, _: machine.tuple_of(3),
    ("DICT",): _Machine.dict_since_mark,
    ("APPEND",): _Machine.append,
    ("APPENDS", "ADDITEMS"): lambda machine, _: machine.extend(machine.since_mark()),
    ("SETITEM",): _Machine.set_item,
    ("SETITEMS",): lambda machine, _: machine.set_items(machine.since_mark()),
    ("GET", "BINGET", "LONG_BINGET"): _Machine.recall,
    ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"): _Machine.remember,
    ("GLOBAL",): _Machine.global_,
    ("STACK_GLOBAL",): _Machine.global_from_stack,
    # Numbers in a registry of each process: nothing that a file could mean to us.
    ("EXT1", "EXT2", "EXT4"): lambda machine, _: machine.push(Foreign("extension")),
    ("REDUCE", "NEWOBJ"): _Machine.reduce,
    ("NEWOBJ_EX",): _Machine.new_with_keywords,
    ("INST",): _Machine.instance,
    ("OBJ",): _Machine.object_,
    # The state of an object is dropped: a Foreign has none, and a state_dict's is `_metadata`.
    ("BUILD",): lambda machine, _: machine.stack.pop(),
    ("PERSID",): lambda machine, name: machine.push(machine.persistent(name)),
    ("BINPERSID",): lambda machine, _: machine.push(machine.persistent(machine.stack.pop())),
    ("NEXT_BUFFER", "READONLY_BUFFER"): _Machine.refuse,
}
# fmt: on
_BY_NAME = {name: operation for names, operation in _OPERATIONS.items() for name in names}
