"""Something-Something v2: train.json, validation.json, labels.json, the test set's answers.

As published by 20BN, now Qualcomm (arXiv:1706.04261, "something-something-v2-*.json"): a list of
objects with id, label, template and placeholders. The class is the template without its brackets;
labels.json maps it to its index as text. test.json has only ids; their classes are in a file of
`id;class` lines. The videos are `<id>.webm`.
"""

import json
import os
import re
from typing import Any

from vswin_jax.data.sources.annotations import parse_json
from vswin_jax.data.sources.published.listing import (
    ListedVideo,
    ListFormat,
    Listing,
    read_sibling,
    sort_by_number,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text

_NAMES_FILES = ("labels.json", "something-something-v2-labels.json")
_ANSWER = re.compile(r"\s*(\d+);(.+)")


def _matches(path: str, head: str) -> bool:
    is_list = re.match(r'\s*\[\s*\{\s*"', head) and re.search(r'"template"\s*:', head)
    return bool(is_list or (path.lower().endswith(".csv") and _ANSWER.match(head)))


def _read(path: str) -> Listing:
    text = read_text(path)
    parse = _parse_list if text.lstrip().startswith(("[", "{")) else _parse_answers
    return Listing(parse(text, path), _read_names(path), _NAMES_FILES[0])


def _parse_list(text: str, path: str) -> list[ListedVideo]:
    records = parse_json(text, path)
    if not isinstance(records, list):
        raise InputError(
            f"Expected a list of videos in {path!r} but it is an object: give train.json or "
            "validation.json."
        )
    return [_listed_video(number, record, path) for number, record in enumerate(records, start=1)]


def _listed_video(number: int, record: Any, path: str) -> ListedVideo:
    fields = record if isinstance(record, dict) else {}
    name, template = fields.get("id"), fields.get("template")
    if not isinstance(name, str | int) or not isinstance(template, str):
        shown = json.dumps(record, ensure_ascii=False)
        raise bad_line(path, number, "an object with `id` and `template`", shown)
    return ListedVideo(number, f"{name}.webm", _class_name(template))


def _parse_answers(text: str, path: str) -> list[ListedVideo]:
    videos = []
    for number, line in numbered_lines(text):
        answer = _ANSWER.fullmatch(line)
        if not answer:
            raise bad_line(path, number, "`id;class`", line)
        videos.append(ListedVideo(number, f"{answer[1]}.webm", _class_name(answer[2])))
    return videos


def _is_number(value: object) -> bool:
    return re.fullmatch(r"\d{1,9}", str(value)) is not None


def _class_name(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()


def _read_names(path: str) -> tuple[str, ...] | None:
    sibling = read_sibling(path, _NAMES_FILES)
    if sibling is None:
        return None
    names_path, text = sibling
    numbers = parse_json(text, names_path)
    if not isinstance(numbers, dict) or not all(map(_is_number, numbers.values())):
        raise InputError(
            f"Expected {os.path.basename(names_path)!r} beside {path!r} to map class names to "
            "their numbers but it does not: use the published file."
        )
    by_class = {_class_name(name): int(number) for name, number in numbers.items()}
    return sort_by_number(by_class, first=0, path=names_path)


FORMAT = ListFormat(matches=_matches, read=_read)
