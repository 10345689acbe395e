"""An interpreter of pickle opcodes that imports nothing and calls nothing that a file names.

Python's `Unpickler`, even a restricted one, runs code on behalf of the file: BUILD calls
`__setstate__` or writes to `__dict__`, APPEND calls `append`, EXT reads a registry of imports, and
a memo index of a few bytes can allocate gigabytes. Here a global is represented by its name alone
(`OpaqueObject`), and every object that the file would build from it by that name and the data that
the object would get, unless the caller provides a builder for that name.

The size of the file bounds time and memory: the number of opcodes is limited, each costs constant
time, and operations that a file can make expensive (hashing nested tuples or colliding numbers)
are avoided.
"""

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vswin_jax.weights.files.byte_reader import ByteReader

# A checkpoint with optimizer state and training history has fewer than 100,000 opcodes.
_MAX_OPCODES = 1_000_000
_MAX_NAME_LENGTH = 256
_MAX_KEY_LENGTH = 1000
# A file can choose numbers with colliding hashes, which make filling a dict quadratic. Hashes of
# text are randomized in each process, so the number of text keys needs no limit.
_MAX_NUMBER_KEYS = 65_536


@dataclass(eq=False, slots=True)
class OpaqueObject:
    """Stands for a class, a function, or an object made by one.

    Attributes:
      name: the qualified name of the class or function.
      arguments: of the call that would make the object.
      items: those that the object would get as a dict; None without any.
      state: what the object would be given as its `__dict__` or by `__setstate__`.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    items: dict[Any, Any] | None = None
    state: object = None


# Makes an object from the arguments in the file, or raises ValueError.
Builder = Callable[[tuple[Any, ...]], object]
# Makes the object of a persistent id, or raises ValueError.
PersistentLoad = Callable[[object], object]


def read_pickle(
    reader: ByteReader,
    builders: Mapping[str, Builder],
    persistent: PersistentLoad,
    max_opcodes: int | None = None,
) -> object:
    """Read the pickle at the reader's position and advance the reader past it.

    The result has dicts, lists (also for sets), tuples, text, bytes, numbers, results of the
    `builders` (by qualified name), and an `OpaqueObject` for everything else, which records the
    items and the state that the file gives it.

    Raises:
      ValueError: the bytes are not a pickle, or exceed the limits of this module.
    """
    # pickletools warns about backslashes in a damaged name.
    with warnings.catch_warnings(action="ignore"):
        try:
            machine = _PickleMachine(builders, persistent)
            return _run(reader, machine, max_opcodes or _MAX_OPCODES)
        except (IndexError, KeyError):
            raise ValueError(
                "its pickle reads from an empty stack or an unset memo entry"
            ) from None


def _run(reader: ByteReader, machine: "_PickleMachine", max_opcodes: int) -> object:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(reader)):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if count >= max_opcodes:
            raise ValueError(f"its pickle has over {max_opcodes} operations")
        _OPERATION_BY_OPCODE[opcode.name](machine, argument)
    raise ValueError("its pickle has no STOP opcode")


class _PickleMachine:
    """The stack and the memo of a pickle, with a method for each kind of opcode.

    An operation takes the opcode's argument, which is None where the opcode has none.
    """

    def __init__(self, builders: Mapping[str, Builder], persistent: PersistentLoad) -> None:
        self.builders = builders
        self.persistent = persistent
        self.stack: list[Any] = []
        # MARK saves the stack here and starts an empty one.
        self.saved_stacks: list[list[Any]] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[tuple[str, str], OpaqueObject] = {}
        self.number_keys = 0

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.saved_stacks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.saved_stacks.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int | None) -> None:
        index = len(self.memo) if index is None else index
        # Pickle writers count up from 0; the bound excludes indices chosen to collide in the memo.
        if not 0 <= index < _MAX_OPCODES:
            raise ValueError(f"its pickle has a memo index outside 0 to {_MAX_OPCODES - 1}")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def make_tuple(self, count: int) -> None:
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
        if isinstance(target, OpaqueObject):
            target.items = {} if target.items is None else target.items
            target = target.items
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self.safe_key(key)] = value

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def make_dict(self, _: object) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def safe_key(self, key: Any) -> Any:
        """Return `key`, or a placeholder if its hash or comparison could take long."""
        if isinstance(key, str | bytes):
            return key if len(key) <= _MAX_KEY_LENGTH else OpaqueObject("key")
        if key is None or isinstance(key, OpaqueObject):
            return key
        if isinstance(key, float) or (isinstance(key, int) and key.bit_length() <= 64):
            self.number_keys += 1
            if self.number_keys > _MAX_NUMBER_KEYS:
                raise ValueError(f"its pickle has over {_MAX_NUMBER_KEYS} numbers as keys")
            return key
        return OpaqueObject("key")

    def find_global(self, module: object, name: object) -> OpaqueObject:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle has a class name that is not text")
        if max(len(module), len(name)) > _MAX_NAME_LENGTH:
            raise ValueError(f"its pickle has a class name of over {_MAX_NAME_LENGTH} characters")
        return self.globals.setdefault((module, name), OpaqueObject(f"{module}.{name}"))

    def global_(self, pair: str) -> None:
        module, _, name = pair.partition(" ")
        self.push(self.find_global(module, name))

    def stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.find_global(module, name))

    def build(self, function: object, arguments: object) -> None:
        """Push a builder's object, or a description of it. Nothing named by the file is called."""
        if not (isinstance(function, OpaqueObject) and isinstance(arguments, tuple)):
            raise ValueError("its pickle calls something that is not a function")
        builder = self.builders.get(function.name)
        self.push(builder(arguments) if builder else OpaqueObject(function.name, arguments))

    def set_state(self, _: object) -> None:
        """Record the state of an object; that of a dict is dropped, only `_metadata`."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], OpaqueObject):
            self.stack[-1].state = state

    def reduce(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.build(function, arguments)

    def new_with_keywords(self, _: object) -> None:
        self.stack.pop()
        self.reduce(_)

    def instance(self, pair: str) -> None:
        arguments = tuple(self.pop_mark())
        self.global_(pair)
        self.build(self.stack.pop(), arguments)

    def object_(self, _: object) -> None:
        function, *arguments = self.pop_mark() or [None]
        self.build(function, tuple(arguments))

    def refuse_buffer(self, _: object) -> None:
        raise ValueError("its pickle has out-of-band buffers, which no file holds")


# fmt: off
_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
)
_OPERATIONS: dict[tuple[str, ...], Callable[[_PickleMachine, Any], object]] = {
    _CONSTANTS: _PickleMachine.push,
    ("PROTO", "FRAME"): lambda machine, _: None,
    ("NONE",): lambda machine, _: machine.push(None),
    ("NEWTRUE",): lambda machine, _: machine.push(True),
    ("NEWFALSE",): lambda machine, _: machine.push(False),
    ("EMPTY_TUPLE",): lambda machine, _: machine.push(()),
    ("EMPTY_DICT",): lambda machine, _: machine.push({}),
    # A list stands for a set, which would hash objects that the file built.
    ("EMPTY_LIST", "EMPTY_SET"): lambda machine, _: machine.push([]),
    ("MARK",): _PickleMachine.mark,
    ("POP",): _PickleMachine.pop,
    ("POP_MARK",): lambda machine, _: machine.pop_mark(),
    ("DUP",): lambda machine, _: machine.push(machine.stack[-1]),
    ("LIST",): lambda machine, _: machine.push(machine.pop_mark()),
    ("TUPLE", "FROZENSET"): lambda machine, _: machine.push(tuple(machine.pop_mark())),
    ("TUPLE1",): lambda machine, _: machine.make_tuple(1),
    ("TUPLE2",): lambda machine, _: machine.make_tuple(2),
    ("TUPLE3",): lambda machine, _: machine.make_tuple(3),
    ("DICT",): _PickleMachine.make_dict,
    ("APPEND",): _PickleMachine.append,
    ("APPENDS", "ADDITEMS"): lambda machine, _: machine.extend(machine.pop_mark()),
    ("SETITEM",): _PickleMachine.set_item,
    ("SETITEMS",): lambda machine, _: machine.set_items(machine.pop_mark()),
    ("GET", "BINGET", "LONG_BINGET"): _PickleMachine.get,
    ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"): _PickleMachine.put,
    ("GLOBAL",): _PickleMachine.global_,
    ("STACK_GLOBAL",): _PickleMachine.stack_global,
    # The numbers refer to a registry of the writing process, which is unknown here.
    ("EXT1", "EXT2", "EXT4"): lambda machine, _: machine.push(OpaqueObject("extension")),
    ("REDUCE", "NEWOBJ"): _PickleMachine.reduce,
    ("NEWOBJ_EX",): _PickleMachine.new_with_keywords,
    ("INST",): _PickleMachine.instance,
    ("OBJ",): _PickleMachine.object_,
    ("BUILD",): _PickleMachine.set_state,
    ("PERSID",): lambda machine, name: machine.push(machine.persistent(name)),
    ("BINPERSID",): lambda machine, _: machine.push(machine.persistent(machine.stack.pop())),
    ("NEXT_BUFFER", "READONLY_BUFFER"): _PickleMachine.refuse_buffer,
}
# fmt: on
_OPERATION_BY_OPCODE = {
    name: operation for names, operation in _OPERATIONS.items() for name in names
}
