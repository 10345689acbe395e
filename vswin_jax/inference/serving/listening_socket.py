"""The address of a server."""

import socket

from vswin_jax.errors import InputError

_ALL_ADDRESSES = ("", "0.0.0.0", "::")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 stands for a free one.

    Raises:
      InputError: this machine has no such address, or another program has it.
    """
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        family, *_, address = socket.getaddrinfo(host or None, port, type=kind, flags=flags)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        cause = str(error).partition(" (")[0].partition("] ")
        raise InputError(
            f"The server cannot listen at {host}:{port} ({cause[2] or cause[0]}): give another "
            f"host or port, or end the program that has this one.",
            ["host", "port"],
        ) from error


def server_url(host: str, listening: socket.socket) -> str:
    """Return the address of the page, with the name of this machine if it has all addresses."""
    name = socket.gethostname() if host in _ALL_ADDRESSES else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}"


def is_local(listening: socket.socket) -> bool:
    """Return True if only programs of this machine can reach the server."""
    address = listening.getsockname()[0]
    return address == "::1" or address.startswith("127.")
