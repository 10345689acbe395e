"""Roofline bounds of the time of a program on a chip (Williams et al., CACM 2009)."""

from dataclasses import dataclass

from vswin_jax.analysis.compiled_program import CompiledProgram
from vswin_jax.runtime.hardware import ChipSpec


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of a program's time in seconds, by the peak of each resource of a chip."""

    compute: float
    memory: float
    interconnect: float

    @classmethod
    def from_program(cls, program: CompiledProgram, chip: ChipSpec) -> "Roofline":
        """Divide the costs of a program by the peaks of a chip."""
        return cls(
            compute=program.flops / chip.flops,
            memory=program.memory_traffic / chip.memory_bandwidth,
            interconnect=program.wire_bytes / chip.link_bandwidth,
        )

    @property
    def seconds(self) -> float:
        """The lower bound of the time, since at best all resources are busy at once."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def limit(self) -> str:
        """The resource that sets the bound, in words."""
        names = {
            self.interconnect: "limited by the interconnect",
            self.memory: "limited by memory traffic",
            self.compute: "limited by arithmetic",
        }
        return names[self.seconds]
