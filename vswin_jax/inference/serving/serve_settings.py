"""The settings of a server: its address, and the limits of a request."""

import math
from dataclasses import dataclass

from vswin_jax.errors import InputError
from vswin_jax.runtime.cpu_count import usable_cpus

# A process takes some 100 MB of memory, and the model is the slower part.
_MAX_DECODERS = 4


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a server.

    Attributes:
      host: the address to listen on; "0.0.0.0" stands for all addresses of this machine.
      port: 0 stands for any free one.
      max_mb: the largest video, in units of 10^6 bytes.
      timeout: seconds of a request after its video has arrived, waiting included.
      max_requests: requests at a time, from the start of the upload on.
      decoders: processes that decode, and so the requests that are worked on at a time.
      max_windows: of a timeline; that of a longer video has a larger stride.
      allow_hosts: names by which clients may address the server, besides its own; "*" for all.
      allow_origins: web sites such as "https://example.org" whose pages may call the server.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_mb: float = 200.0
    timeout: float = 300.0
    max_requests: int = 32
    decoders: int = 0
    max_windows: int = 60
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise InputError(
                f"Expected the port as a number from 0 to 65535 but {self.port} came: change it.",
                ["port"],
            )
        for name in ("max_mb", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise _too_small(name, getattr(self, name), "a number above 0")
        least = {"max_requests": 1, "decoders": 0, "max_windows": 2}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise _too_small(name, getattr(self, name), f"{smallest} or more")

    @property
    def max_bytes(self) -> int:
        """The largest video, in bytes."""
        return int(self.max_mb * 1e6)

    @property
    def num_decoders(self) -> int:
        """The number of processes that decode; by default 2 to 4, as there are CPUs."""
        return self.decoders or max(2, min(usable_cpus(), _MAX_DECODERS))


def _too_small(name: str, value: float, expected: str) -> InputError:
    return InputError(f"Expected {name} to be {expected} but {value} came: change it.", [name])
