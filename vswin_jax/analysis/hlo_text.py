"""Parses the text of compiled XLA programs into HLO modules.

The text is that of `jax.stages.Compiled.as_text()`, as XLA's CPU, GPU and TPU compilers write it.
"""

import math
import re
from collections.abc import Iterator

from vswin_jax.analysis.hlo_module import HloArray, HloComputation, HloInstruction, HloModule

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=? ]*)\](\{[^}]*\})?")
# The backend config of a kernel in a fusion is JSON of several lines.
_WRAPPED = re.compile(r'\n(?="|}, ")')
_HEAD = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%?([\w.\-]+)$")


def parse_module(text: str) -> HloModule:
    """Parse the text of a compiled program.

    Raises:
      ValueError: The text has no entry computation.
    """
    computations: dict[str, HloComputation] = {}
    entry, instructions, name = "", {}, ""
    for line in _WRAPPED.sub("", text).splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name, instructions = head[2], {}
            computations[name] = HloComputation(name, instructions)
            entry = name if head[1] else entry
        elif name and (instruction := _parse_instruction(line)):
            instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("The text has no ENTRY computation: it is not that of a compiled program.")
    devices = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[:20000])]
    return HloModule(computations, entry, math.prod(devices))


def _parse_instruction(line: str) -> HloInstruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    rest = re.sub(r"/\*.*?\*/", "", line[head.end() :])
    end = _end_of_parentheses(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    closing = _end_of_parentheses(rest, opcode.end() - 1)
    argument = rest[opcode.end() : closing - 1]
    names = (_NAME.search(part.strip()) for part in argument.split(", "))
    return HloInstruction(
        name=head[1],
        opcode=opcode[1],
        results=tuple(parse_arrays(rest[:end])),
        operands=tuple(found[1] for found in names if found),
        attributes=rest[closing:],
        argument=argument,
    )


def _end_of_parentheses(text: str, start: int) -> int:
    """Return the index after the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise ValueError(f"Unbalanced parentheses in {text[:200]!r}.")


def parse_arrays(text: str) -> Iterator[HloArray]:
    """Parse the array shapes in text such as `(f32[2,3]{1,0}, s32[])`."""
    for dtype, shape, layout in _ARRAY.findall(text):
        yield HloArray(dtype, tuple(int(n) for n in re.findall(r"\d+", shape)), layout)
