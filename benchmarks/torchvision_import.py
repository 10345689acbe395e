"""Import of torchvision beside a CPU-only PyTorch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def without_torchvision_operators() -> Iterator[None]:
    """Let `import torchvision` succeed where its compiled operators are missing.

    torchvision's wheels do not load their operators with a CPU-only PyTorch, and the import then
    fails while it registers their fake versions. This context skips the registrations; the
    Swin models use none of the operators.
    """
    import torch

    register_fake = torch.library.register_fake

    def skip_torchvision(name: str, *args: object, **kwargs: object) -> Callable:
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = skip_torchvision
    try:
        yield
    finally:
        torch.library.register_fake = register_fake
