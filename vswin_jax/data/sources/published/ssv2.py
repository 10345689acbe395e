"""Something-Something v2: train.json, validation.json, labels.json and the answers to the test.

As published by 20BN, now Qualcomm (arXiv:1706.04261, "something-something-v2-*.json"): a list of
objects with id, label, template and placeholders. The class is the template without its brackets;
labels.json maps it to its index as text. test.json has ids only; `id;class` lines answer it. The
videos are `<id>.webm`.
"""

import json
import os
import re
from typing import Any

from vswin_jax.data.sources.annotations import bad_line, parse_json, read_text
from vswin_jax.data.sources.published.listing import Entry, Family, Listing, beside, in_order
from vswin_jax.errors import InputError

_NAMES_FILES = ("labels.json", "something-something-v2-labels.json")
_ANSWER = re.compile(r"\s*(\d+);(.+)")


def _recognises(path: str, head: str) -> bool:
    is_list = re.match(r'\s*\[\s*\{\s*"', head) and re.search(r'"template"\s*:', head)
    return bool(is_list or (path.lower().endswith(".csv") and _ANSWER.match(head)))


def _read(path: str) -> Listing:
    text = read_text(path)
    read = _of_json if text.lstrip().startswith(("[", "{")) else _of_answers
    return Listing(read(text, path), _label_names(path), _NAMES_FILES[0])


def _of_json(text: str, path: str) -> list[Entry]:
    records = parse_json(text, path)
    if not isinstance(records, list):
        raise InputError(
            f"Expected a list of videos in {path!r} but it is an object: give train.json or "
            "validation.json."
        )
    return [_entry(number, record, path) for number, record in enumerate(records, start=1)]


def _entry(number: int, record: Any, path: str) -> Entry:
    fields = record if isinstance(record, dict) else {}
    name, template = fields.get("id"), fields.get("template")
    if not isinstance(name, str | int) or not isinstance(template, str):
        shown = json.dumps(record, ensure_ascii=False)
        raise bad_line(path, number, "an object with `id` and `template`", shown)
    return Entry(number, f"{name}.webm", _class_of(template))


def _of_answers(text: str, path: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        answer = _ANSWER.fullmatch(line)
        if answer:
            entries.append(Entry(number, f"{answer[1]}.webm", _class_of(answer[2])))
        elif line.strip():
            raise bad_line(path, number, "`id;class`", line)
    return entries


def _class_of(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()


def _label_names(path: str) -> tuple[str, ...] | None:
    found = beside(path, _NAMES_FILES)
    if found is None:
        return None
    numbers = parse_json(found[1], found[0])
    if not isinstance(numbers, dict) or not all(str(n).isdecimal() for n in numbers.values()):
        raise InputError(
            f"Expected {os.path.basename(found[0])!r} beside {path!r} to map class names to their "
            "numbers but it does not: use the published file."
        )
    return in_order({_class_of(name): int(number) for name, number in numbers.items()}, 0, found[0])


FAMILY = Family(_recognises, _read)
