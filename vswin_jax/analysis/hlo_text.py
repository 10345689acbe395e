"""Reads the text of a compiled XLA program: its computations, and how often each of them runs.

The text is that of `jax.stages.Compiled.as_text()`, as XLA's CPU, GPU and TPU compilers write it
(openxla.org/xla/operation_semantics names the operations). Shapes are those of one device.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=? ]*)\](\{[^}]*\})?")
_TILE = re.compile(r"\{([\d,]*):T\(([\d,]+)\)")
# The options of a kernel in a fusion are JSON of several lines.
_WRAPPED = re.compile(r'\n(?="|}, ")')
_HEAD = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%?([\w.\-]+)$")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = {
    "fusion": ("calls",),
    "call": ("to_apply", "calls"),
    "async-start": ("calls",),
    "conditional": ("true_computation", "false_computation"),
}
# Operations that hand on the value of their first operand.
_SAME_VALUE = ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape")


@dataclass(frozen=True)
class Array:
    """The type of an array: `bf16` and (256, 512), and how it is laid out, as it is written."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return -(-self.size * _bits(self.dtype) // 8)

    @property
    def is_on_chip(self) -> bool:
        """Whether it lies in the vector memory of a TPU."""
        return "S(1)" in self.layout

    @property
    def bytes_in_memory(self) -> int:
        """With the padding of tiles; 0 for what a TPU keeps in the vector memory of the chip."""
        if self.is_on_chip:
            return 0
        tile = _TILE.match(self.layout)
        if tile is None:
            return self.bytes
        lengths = [self.shape[int(axis)] for axis in tile[1].split(",") if axis]
        for place, width in enumerate(reversed([int(n) for n in tile[2].split(",")])):
            if place < len(lengths):
                lengths[place] = -(-lengths[place] // width) * width
        return -(-math.prod(lengths) * _bits(self.dtype) // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    # f8e4m3fn has 8 bits, s32 has 32.
    return int(re.match(r"[a-z]+(\d+)", dtype)[1])


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    results: the arrays of the result, those of a tuple one after the other; operands: names of
    instructions of the same computation; attributes: what follows the operands, as it is written.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute such as `body` names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


@dataclass(frozen=True)
class Computation:
    """The instructions by name, in the order of the text; the last one is the result."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction marked ROOT, which XLA writes last."""
        return next(reversed(self.instructions.values()))

    def operands(self, instruction: Instruction) -> tuple[Array, ...]:
        """The types of an instruction's operands, one after the other."""
        return tuple(array for name in instruction.operands for array in self.types_of(name))

    def types_of(self, name: str) -> tuple[Array, ...]:
        """The types of one operand: several where it is a tuple."""
        found = self.instructions.get(name)
        return found.results if found else ()


@dataclass(frozen=True)
class Execution:
    """An instruction that runs `times` a call of the program.

    trips_known: no loop around it has an unknown number of trips, which would count as one;
    fused: it is part of a fusion, whose inner values are not stored.
    """

    computation: Computation
    instruction: Instruction
    times: int
    trips_known: bool
    fused: bool


@dataclass(frozen=True)
class Module:
    """A compiled program. partitions: the devices that it runs on as one."""

    computations: Mapping[str, Computation]
    entry: str
    partitions: int

    @cached_property
    def executions(self) -> tuple[Execution, ...]:
        """Every instruction that runs, loops multiplied; both branches of a conditional count."""
        return tuple(self._walk(self.entry, 1, True, False))

    def _walk(self, name: str, times: int, known: bool, fused: bool) -> Iterator[Execution]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Execution(computation, instruction, times, known, fused)
            if instruction.opcode == "while":
                trips = self.trips(computation, instruction)
                told, trips = known and trips is not None, 1 if trips is None else trips
                body, condition = (instruction.called(what) for what in ("body", "condition"))
                yield from self._walk(body or "", times * trips, told, fused)
                yield from self._walk(condition or "", times * (trips + 1), told, fused)
            for callee in self._callees(instruction):
                is_fused = fused or instruction.opcode == "fusion"
                yield from self._walk(callee, times, known, is_fused)

    def _callees(self, instruction: Instruction) -> list[str]:
        attributes = _CALLS.get(instruction.opcode, ())
        names = [name for a in attributes if (name := instruction.called(a))]
        if instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names += re.findall(r"[\w.\-]+", branches[1]) if branches else []
        return [name for name in names if name in self.computations]

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a `while` runs its body; None where the text does not tell.

        CPU and GPU programs say it. A TPU program does not: there it is read from a condition
        `counter < constant`, for a counter that starts at a constant and, as those of
        `jax.lax.scan` and `map` do, counts by one.
        """
        said = _KNOWN_TRIPS.search(loop.attributes)
        if said:
            return int(said[1])
        condition = self.computations.get(loop.called("condition") or "")
        if condition is None or "direction=LT" not in condition.root.attributes:
            return None
        counter, limit = (self._value(condition, name) for name in condition.root.operands)
        if counter is None or limit is None or counter.opcode != "get-tuple-element":
            return None
        index = int(re.search(r"index=(\d+)", counter.attributes)[1])
        start = self._element(computation, loop.operands[0], index)
        stop = _constant(limit)
        return None if start is None or stop is None else max(stop - start, 0)

    def _element(self, computation: Computation, name: str, index: int) -> int | None:
        made = self._value(computation, name)
        if made is None or made.opcode != "tuple":
            return None
        element = self._value(computation, made.operands[index])
        return _constant(element) if element else None

    def _value(self, computation: Computation, name: str) -> Instruction | None:
        found = computation.instructions.get(name)
        while found is not None and found.opcode in _SAME_VALUE:
            found = computation.instructions.get(found.operands[0])
        return found


def _constant(instruction: Instruction) -> int | None:
    is_number = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.argument)
    return int(instruction.argument) if is_number else None


def parse_module(text: str) -> Module:
    """The program of a text.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, inside, name = "", {}, ""
    for line in _WRAPPED.sub("", text).splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name, inside = head[2], {}
            computations[name] = Computation(name, inside)
            entry = name if head[1] else entry
        elif name and (instruction := _instruction(line)):
            inside[instruction.name] = instruction
    if not entry:
        raise ValueError("The text has no ENTRY computation: it is not that of a compiled program.")
    devices = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[:20000])]
    return Module(computations, entry, math.prod(devices))


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    rest = re.sub(r"/\*.*?\*/", "", line[head.end() :])
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    closing = _closing(rest, opcode.end() - 1)
    argument = rest[opcode.end() : closing - 1]
    names = (_NAME.search(part.strip()) for part in argument.split(", "))
    return Instruction(
        head[1],
        opcode[1],
        tuple(arrays(rest[:end])),
        tuple(found[1] for found in names if found),
        rest[closing:],
        argument,
    )


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place + 1
    raise ValueError(f"Unbalanced parentheses in {text[:200]!r}.")


def arrays(text: str) -> Iterator[Array]:
    """The array types in a piece of text, such as `(f32[2,3]{1,0}, s32[])`."""
    for dtype, shape, layout in _ARRAY.findall(text):
        yield Array(dtype, tuple(int(n) for n in re.findall(r"\d+", shape)), layout)
