"""HLO modules: computations, instructions and the trip counts of loops.

openxla.org/xla/operation_semantics describes the operations. Shapes are those of one device.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_TILE = re.compile(r"\{([\d,]*):T\(([\d,]+)\)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLS = {
    "fusion": ("calls",),
    "call": ("to_apply", "calls"),
    "async-start": ("calls",),
    "conditional": ("true_computation", "false_computation"),
}
# Operations that return the value of their first operand.
_SAME_VALUE = ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape")


@dataclass(frozen=True)
class HloArray:
    """The shape of an array in HLO text: element type, dimensions and layout.

    Attributes:
      dtype: The element type, for example `bf16`.
      shape: The dimensions, for example (256, 512).
      layout: The text of the layout.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes, without padding."""
        return -(-self.size * _bits(self.dtype) // 8)

    @property
    def in_vmem(self) -> bool:
        """True for an array in the vector memory (VMEM) of a TPU."""
        return "S(1)" in self.layout

    @property
    def hbm_bytes(self) -> int:
        """The size in bytes in HBM, with the padding of tiles; 0 for an array in VMEM."""
        if self.in_vmem:
            return 0
        tile = _TILE.match(self.layout)
        if tile is None:
            return self.bytes
        lengths = [self.shape[int(axis)] for axis in tile[1].split(",") if axis]
        for axis, width in enumerate(reversed([int(n) for n in tile[2].split(",")])):
            if axis < len(lengths):
                lengths[axis] = -(-lengths[axis] // width) * width
        return -(-math.prod(lengths) * _bits(self.dtype) // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    # f8e4m3fn has 8 bits, s32 has 32.
    return int(re.match(r"[a-z]+(\d+)", dtype)[1])


@dataclass(frozen=True)
class HloInstruction:
    """An instruction, one line of a computation.

    Attributes:
      name: The name of the instruction, unique in its computation.
      opcode: The operation, for example `dot`.
      results: The arrays of the result, flattened if it is a tuple.
      operands: The names of instructions of the same computation.
      attributes: The text after the operands.
      argument: The text between the parentheses: the operands, or the value of a constant.
    """

    name: str
    opcode: str
    results: tuple[HloArray, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str

    def called_computation(self, attribute: str) -> str | None:
        """Return the name of the computation that an attribute such as `body` calls."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


@dataclass(frozen=True)
class HloComputation:
    """A computation: its instructions by name, in the order of the text."""

    name: str
    instructions: Mapping[str, HloInstruction]

    @property
    def root(self) -> HloInstruction:
        """The instruction marked ROOT, the result, which XLA writes last."""
        return next(reversed(self.instructions.values()))

    def operands(self, instruction: HloInstruction) -> tuple[HloArray, ...]:
        """Return the arrays of all operands of an instruction, flattened."""
        return tuple(array for name in instruction.operands for array in self.arrays_of(name))

    def arrays_of(self, name: str) -> tuple[HloArray, ...]:
        """Return the arrays of one operand, several if it is a tuple."""
        found = self.instructions.get(name)
        return found.results if found else ()


@dataclass(frozen=True)
class Execution:
    """An instruction of the program, with the number of its executions.

    Attributes:
      computation: The computation of the instruction.
      instruction: The instruction.
      times: The number of executions in a call of the program, with loops multiplied.
      trip_count_known: False inside a loop of unknown trip count, which counts as one trip.
      fused: True inside a fusion, whose intermediate values are not stored.
    """

    computation: HloComputation
    instruction: HloInstruction
    times: int
    trip_count_known: bool
    fused: bool


@dataclass(frozen=True)
class HloModule:
    """A compiled program; `partitions` is the number of devices that run it together."""

    computations: Mapping[str, HloComputation]
    entry: str
    partitions: int

    @cached_property
    def executions(self) -> tuple[Execution, ...]:
        """Every instruction, with its number of executions; all branches of conditionals count."""
        return tuple(self._executions(self.entry, times=1, known=True, fused=False))

    def _executions(self, name: str, times: int, known: bool, fused: bool) -> Iterator[Execution]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Execution(computation, instruction, times, known, fused)
            if instruction.opcode == "while":
                trips = self.trip_count(computation, instruction)
                loop_known, trips = known and trips is not None, 1 if trips is None else trips
                # The condition runs once more than the body: the last time it is false.
                for attribute, runs in (("body", trips), ("condition", trips + 1)):
                    callee = instruction.called_computation(attribute) or ""
                    yield from self._executions(callee, times * runs, loop_known, fused)
            for callee in self._callees(instruction):
                is_fused = fused or instruction.opcode == "fusion"
                yield from self._executions(callee, times, known, is_fused)

    def _callees(self, instruction: HloInstruction) -> list[str]:
        attributes = _CALLS.get(instruction.opcode, ())
        names = [name for a in attributes if (name := instruction.called_computation(a))]
        if instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names += re.findall(r"[\w.\-]+", branches[1]) if branches else []
        return [name for name in names if name in self.computations]

    def trip_count(self, computation: HloComputation, loop: HloInstruction) -> int | None:
        """Return the trip count of a `while`, or None if it is unknown.

        CPU and GPU programs have it as `known_trip_count`. TPU programs do not: there it is derived
        from a condition `counter < constant`, for a counter that starts at a constant and, as those
        of `jax.lax.scan` and `map` do, counts by one.
        """
        known = _KNOWN_TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations.get(loop.called_computation("condition") or "")
        if condition is None or "direction=LT" not in condition.root.attributes:
            return None
        counter, limit = (self._value(condition, name) for name in condition.root.operands)
        if counter is None or limit is None or counter.opcode != "get-tuple-element":
            return None
        index = int(re.search(r"index=(\d+)", counter.attributes)[1])
        start = self._tuple_constant(computation, loop.operands[0], index)
        stop = _constant(limit)
        return None if start is None or stop is None else max(stop - start, 0)

    def _tuple_constant(self, computation: HloComputation, name: str, index: int) -> int | None:
        """Return the constant at `index` of the tuple `name`, or None if it is not a constant."""
        made = self._value(computation, name)
        if made is None or made.opcode != "tuple":
            return None
        element = self._value(computation, made.operands[index])
        return _constant(element) if element else None

    def _value(self, computation: HloComputation, name: str) -> HloInstruction | None:
        """Return the instruction that computes the value `name`, behind copies and the like."""
        found = computation.instructions.get(name)
        while found is not None and found.opcode in _SAME_VALUE:
            found = computation.instructions.get(found.operands[0])
        return found


def _constant(instruction: HloInstruction) -> int | None:
    is_number = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.argument)
    return int(instruction.argument) if is_number else None
