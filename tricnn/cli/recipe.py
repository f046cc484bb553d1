"""Recipes: the options of ``tricnn train`` in a TOML file."""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .arguments import UsageError

LARGEST = 1 << 20  # bytes


def with_recipe(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """A command line with ``--recipe FILE`` replaced by the options of the file, before all others.

    So the last one of an option counts. ``model`` in the file is MODEL, unless the line begins with another.

    Raises UsageError for a file that cannot be read, is no TOML, or has an option that is unknown.
    """
    path, rest = None, []
    given = iter(arguments)
    for argument in given:
        if argument == "--recipe" or argument.startswith("--recipe="):
            path = argument.partition("=")[2] or next(given, None)
            if not path:
                raise UsageError("--recipe needs the name of a file")
        else:
            rest.append(argument)
    if path is None:
        return arguments
    settings = dict(flat(read(Path(path)), path))
    model = [str(settings.pop("model"))] if "model" in settings else []
    if rest and not rest[0].startswith("-"):
        model, rest = [rest[0]], rest[1:]
    known = sorted(name.replace("_", "-") for name in vars(parser.parse_args(["lenet"])) if name != "model")
    options: list[str] = []
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"{path}: {name[:40]!r} is no option of tricnn train{f'; {near[0]}?' if near else ''}")
        options += words(name, value)
    return [*model, *options, *rest]


def read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST)
        return tomllib.loads(text.decode())
    except OSError as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--recipe {path}: not a recipe in TOML ({' '.join(str(error).split())[:100]})") from None


def flat(settings: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The settings of a recipe, each once, whatever table it is in: tables are for readers."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, path)
        elif isinstance(value, (bool, int, float, str, list)):
            yield name.replace("_", "-"), value
        else:
            raise UsageError(f"{path}: {name} is a {type(value).__name__}; accepted: numbers, texts, true, lists")


def words(name: str, value: Any) -> list[str]:
    """An option as words: ``["--name", "value"]``, ``["--name"]`` for true, nothing for false."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
