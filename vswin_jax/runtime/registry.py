"""Registries of classes and functions that a config chooses by name, with typed options.

A choice is written as a call, `color_jitter(strength=0.4, p=0.8)`, or as a mapping,
`{"name": "color_jitter", "strength": 0.4, "p": 0.8}`; a name alone takes every default. Text is
parsed and never evaluated.
"""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vswin_jax.errors import InputError, unknown_name

T = TypeVar("T")

# Modules that no other process can import: a program, and an experiment file.
_NOT_IMPORTABLE = ("__main__", "<run_path>")
# Of `ast`, for text that is no literal, or nested without end.
_UNPARSABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
_TYPES: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
    tuple: ("several values in parentheses", (list, tuple)),
}


@dataclass(frozen=True)
class Choice:
    """A name of a registry with the options that were written for it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def without(self, option: str) -> "Choice":
        """Return the choice without one of its options."""
        return Choice(self.name, {key: v for key, v in self.options.items() if key != option})

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


class UnregisteredError(InputError):
    """The error for a name that no imported module registers; it advises to import one."""

    def __init__(self, sentence: str, modules: str = "", names: Sequence[str] = ()) -> None:
        reason = "The run has its own, which is" if modules else "One of your own is"
        shown = modules or "MODULE"
        super().__init__(
            f"{sentence} {reason} known once its module is imported: add "
            f"--config.plugins={shown} (--plugins {shown} for predict and scripts), or import it "
            f"first in Python.",
            names,
        )
        self.sentence, self.names = sentence, tuple(names)


class Registry(Generic[T]):
    """Classes or functions of one kind, by name.

    Args:
      kind: the noun for messages, such as "augmentation".
      key: the key of the config that chooses one, for messages.
      of_class: the number of a class's first parameters that are not options.
      of_function: the same of a function.
      shared: options of all entries that the caller takes out before, for messages.
    """

    def __init__(
        self,
        kind: str,
        key: str,
        of_class: int = 0,
        of_function: int = 0,
        shared: Sequence[str] = (),
    ) -> None:
        self.kind, self.key, self._shared = kind, key, shared
        self._fixed = {True: of_class, False: of_function}
        self._entries: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UnregisteredError(str(unknown_name(self.kind, name, self)))
        return self._entries[name]

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name`; a module that is loaded again replaces its own entries.

        Raises:
          InputError: the name is no Python name, or that of something else.
        """
        if not name.isidentifier():
            raise InputError(
                f"Expected a name of letters, digits and underscores for the {self.kind} but "
                f"{name!r} came: change it."
            )
        old = self._entries.get(name)
        if old is not None and _origin(old) != _origin(entry):
            raise InputError(
                f"The {self.kind} {name!r} is registered already, by {_origin(old)}: choose "
                f"another name for {_origin(entry)}."
            )
        self._entries[name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Remove an entry."""
        del self._entries[name]

    def options(self, choice: Choice) -> dict[str, Any]:
        """Return the choice's options, checked against the parameters of what it names.

        Raises:
          InputError: an unknown or missing option, or a value of another type.
        """
        what = f"{self.kind} {choice.name!r}"
        known = self.parameters(self[choice.name])
        for name in choice.options:
            if name not in known:
                options = [*known, *self._shared] or ["none"]
                raise unknown_name(f"option of the {what}", name, options)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in choice.options:
                raise InputError(
                    f"The {what} needs the option {name!r}: write {choice.name}({name}=...)."
                )
        hints = _type_hints(self[choice.name])
        return {
            name: _checked(value, hints.get(name), f"option {name!r} of the {what}")
            for name, value in choice.options.items()
        }

    def parameters(self, entry: T) -> dict[str, inspect.Parameter]:
        """Return the options that an entry takes: its parameters after the fixed ones."""
        fixed = self._fixed[inspect.isclass(entry)]
        parameters = list(inspect.signature(entry).parameters.values())[fixed:]
        # Flax adds the last two to every module.
        return {
            p.name: p
            for p in parameters
            if p.name not in ("parent", "name") and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }

    def parse(self, value: object) -> list[Choice]:
        """Parse the config's value: text, a mapping, or a sequence of these.

        Raises:
          InputError: it is none of them.
        """
        if isinstance(value, str):
            return self._parse_text(value)
        if hasattr(value, "items"):
            return [self._parse_mapping(dict(value))]
        if isinstance(value, Sequence):
            return [choice for part in value for choice in self.parse(part)]
        raise self._malformed(value)

    def _parse_text(self, text: str) -> list[Choice]:
        if not text.strip():
            return []
        try:
            node = ast.parse(text.strip(), mode="eval").body
        except _UNPARSABLE:
            raise self._malformed(text) from None
        parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
        return [choice for part in parts for choice in self._parse_node(part, text)]

    def _parse_node(self, node: ast.expr, text: str) -> list[Choice]:
        try:
            match node:
                case ast.Name(id=name):
                    return [Choice(name)]
                case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                    return [Choice(name, dict(map(_literal_keyword, keywords)))]
                case ast.Dict() | ast.Constant(value=str()):
                    return self.parse(ast.literal_eval(node))
        except _UNPARSABLE:
            pass
        raise self._malformed(text)

    def _parse_mapping(self, options: dict[str, Any]) -> Choice:
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise self._malformed(options)
        return Choice(name, options)

    def _malformed(self, value: object) -> InputError:
        return InputError(
            f"Expected {self.key} to be names with options, such as "
            f'example(strength=0.4) or {{"name": "example", "strength": 0.4}}, but {value!r} came: '
            f"correct it."
        )


def _literal_keyword(keyword: ast.keyword) -> tuple[str, Any]:
    if keyword.arg is None:
        raise ValueError("it has a **")
    return keyword.arg, ast.literal_eval(keyword.value)


def _origin(entry: object) -> str:
    module, name = getattr(entry, "__module__", ""), getattr(entry, "__qualname__", repr(entry))
    return f"{module}.{name}"


def is_importable(entry: object) -> bool:
    """Return True if another process can import a class or function by its name."""
    origin = _origin(entry)
    return not origin.startswith(_NOT_IMPORTABLE) and "<" not in origin


def _type_hints(entry: object) -> dict[str, Any]:
    source = entry.__init__ if inspect.isclass(entry) else entry
    try:
        return typing.get_type_hints(source)
    except NameError:  # a type that is imported for type checkers alone
        return {}


def _checked(value: Any, hint: Any, what: str) -> Any:
    """Return `value` as the type `hint`; hints of other types than those of `_TYPES` pass all."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return value if value is None else _checked(value, _first_type(hint), what)
    kind = typing.get_origin(hint) or hint
    if kind not in _TYPES:
        return value
    meaning, accepted = _TYPES[kind]
    is_right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if not is_right:
        raise InputError(f"Expected {what} to be {meaning} but {value!r} came: correct it.")
    return kind(value)


def _first_type(hint: Any) -> Any:
    """Return the type X of `X | None`; None, which passes all values, for other unions."""
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 else None


def build(
    registry: "Registry[Callable[..., Any]]", choice: Choice, make: Callable[[Any, dict], Any]
) -> Any:
    """Return `make(entry, options)` for a choice; an error of the entry's own check names it.

    Raises:
      InputError: an unknown name, wrong options, or options that the entry refuses.
    """
    entry, options = registry[choice.name], registry.options(choice)
    try:
        return make(entry, options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The {registry.kind} {choice.name!r} refuses its options: {error}; correct {choice}."
        ) from error
