"""The position of this process in a cluster, as command-line flags give it."""

import re
from dataclasses import dataclass

from vswin_jax.errors import InputError

_FLAGS = ("--coordinator HOST:PORT", "--num_processes N", "--process_id I")


@dataclass(frozen=True)
class ClusterMember:
    """One process of a run with several processes.

    Attributes:
      coordinator: HOST:PORT where process 0 runs JAX's coordination service.
      num_processes: number of processes of the run.
      process_id: index of this process, from 0.
    """

    coordinator: str
    num_processes: int
    process_id: int

    @classmethod
    def from_flags(
        cls, coordinator: str, num_processes: int | None, process_id: int | None
    ) -> "ClusterMember | None":
        """Build a member from the values of three flags; None if none of them is given.

        Raises:
          InputError: some flags are missing or wrong.
        """
        given = (coordinator or None, num_processes, process_id)
        missing = [flag for flag, value in zip(_FLAGS, given, strict=True) if value is None]
        if len(missing) == len(_FLAGS):
            return None
        if num_processes == 1 and process_id in (None, 0):
            return cls(coordinator=coordinator, num_processes=1, process_id=0)
        if missing:
            raise InputError(
                f"Expected {', '.join(_FLAGS)} together but {' and '.join(missing)} did not come: "
                f"give all three, or none where SLURM or a TPU's environment provides them."
            )
        return _checked(
            cls(coordinator=coordinator, num_processes=num_processes, process_id=process_id)
        )


def _checked(member: ClusterMember) -> ClusterMember:
    if not re.fullmatch(r".+:\d+", member.coordinator):
        raise InputError(
            f"Expected --coordinator to be HOST:PORT of process 0 but {member.coordinator!r} came."
        )
    if member.num_processes < 1 or not 0 <= member.process_id < member.num_processes:
        raise InputError(
            f"Expected --num_processes to be at least 1 and --process_id to be from 0 to one "
            f"below it but {member.num_processes} and {member.process_id} came."
        )
    return member
