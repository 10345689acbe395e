"""The least time that a program can take on a chip (Williams et al., "Roofline", CACM 2009)."""

from dataclasses import dataclass

from vswin_jax.analysis.compiled_program import CompiledProgram
from vswin_jax.runtime.hardware import Chip


@dataclass(frozen=True)
class Roofline:
    """Seconds of each resource if it were the only one; at best they are all busy at once."""

    arithmetic: float
    traffic: float
    links: float

    @classmethod
    def of(cls, program: CompiledProgram, chip: Chip) -> "Roofline":
        """By the chip's peaks."""
        return cls(
            program.flops / chip.flops,
            program.memory_traffic / chip.memory_bandwidth,
            program.wire_bytes / chip.link_bandwidth,
        )

    @property
    def seconds(self) -> float:
        """The least time of the whole."""
        return max(self.arithmetic, self.traffic, self.links)

    @property
    def limit(self) -> str:
        """What sets it."""
        names = {
            self.links: "limited by the interconnect",
            self.traffic: "limited by memory traffic",
            self.arithmetic: "limited by arithmetic",
        }
        return names[self.seconds]
