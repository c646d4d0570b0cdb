"""Typed access to TOML files; every complaint names the file, the line and the key."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.storage import remedy

_REQUIRED: Any = object()
MOST_INTEGER = 2**63 - 1  # TOML's integers have 64 bits
# Of learning rates and weight decays: torch's optimizers hold what they make of them in float32, which ends at 3.4e38.
MOST_RATE = 3e37
# Of what a term of a loss is multiplied by, and of what logits are divided by: with their squares and their products
# with a cost they stay in float32. What leaves it would end in a training that diverges, and blame a learning rate.
WEIGHTS = (1e-30, 1e9)
TEMPERATURES = (1e-6, 1e6)
# Of what an early exit's loss counts beside the final output's: blocks learn from it at so many times the rate,
# and at 300 nothing was learnt any more (docs/training.md; of full trainings, taken over for searches).
MOST_EXIT_WEIGHT = 30.0
MOST_THREADS = 1024  # torch refuses numbers that it cannot hold with an error of its own


class Table:
    """One table of a TOML file. Remembers which keys were read, so that `close` can reject the others.

    `pages`: the page of documentation by the file's outermost table, "" for all others.
    """

    def __init__(
        self, raw: dict[str, Any], text: str, file: str, section: str = "",
        pages: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._raw = raw
        self._pages = pages or {}
        self._text = text
        self._file = file
        self._section = section
        self._children: dict[str, Table] = {}
        self._seen: set[str] = set()

    @classmethod
    def read(cls, path: Path, pages: Mapping[str, str] | None = None) -> Table:
        """Parse `path`. Raises ConfigError when it is missing or is not TOML."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls(tomllib.loads(text), text, path.name, pages=pages)
        except FileNotFoundError as error:
            raise ConfigError(f"no such file: {path}", hint="give the path of a TOML file") from error
        except IsADirectoryError as error:
            raise ConfigError(f"{path} is a folder", hint="give the path of a TOML file") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=remedy(error)) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} cannot be read: {error}", hint="it must be UTF-8 text") from error
        except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
            raise ConfigError(f"{path.name} is not valid TOML: {error}", hint="mend that line") from error

    @property
    def empty(self) -> bool:
        return not self._raw

    def names(self) -> tuple[str, ...]:
        """The keys that are there, in the file's order."""
        return tuple(self._raw)

    def sub(self, key: str, *, required: bool = True) -> Table:
        """The table `key` inside this one (an empty one where it is optional and missing)."""
        raw = self._get(key, _REQUIRED if required else {}, dict, "a table")
        section = f"{self._section}.{key}" if self._section else key
        return self._children.setdefault(key, Table(raw, self._text, self._file, section, self._pages))

    def text(self, key: str, default: Any = _REQUIRED, *, choices: tuple[str, ...] = ()) -> str:
        value = self._get(key, default, str, "a string")
        if choices and value is not None and value not in choices:
            raise self.error(key, f"is '{value}'", hint=f"choose one of: {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._raw.get(key, default)
        self._seen.add(key)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def integer(
        self, key: str, default: Any = _REQUIRED, *, minimum: int = 1, maximum: int | None = None
    ) -> int:
        return self._in_range(key, self._get(key, default, int, "an integer"), minimum, maximum)

    def number(
        self, key: str, default: Any = _REQUIRED, *, minimum: float = 0.0, maximum: float | None = None
    ) -> Any:
        value = self._get(key, default, (int, float), "a number")
        return value if value is None else float(self._in_range(key, value, minimum, maximum))

    def strings(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        return self._list(key, default, str, "a list of strings")

    def integers(self, key: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        return self._list(key, default, int, "a list of integers")

    def numbers(self, key: str, default: Any = _REQUIRED) -> tuple[float, ...]:
        return self._list(key, default, (int, float), "a list of numbers")

    def close(self) -> None:
        """Raise ConfigError for any key that nobody asked for: most often a misspelling."""
        for key in self._raw:
            if key not in self._seen:
                raise self.error(key, "is not a known key", hint=self._instead_of(key))
        for child in self._children.values():
            child.close()

    def _instead_of(self, key: str) -> str:
        """What may have been meant by the unknown `key`."""
        inner = []
        for name, child in self._children.items():
            if (own := key.removeprefix(f"{name}_")) != key and own in child._seen:
                return f"it is the key '{own}' of [{child._section}]"  # `inner_rate`: there can be no other
            if key in child._seen:
                inner.append(f"'{key}' of [{child._section}]")
        # `rate` for `inner_rate` or `outer_rate` is closer than any misspelling
        longer = [name for name in sorted(self._seen) if name.endswith(f"_{key}")]
        close = longer or difflib.get_close_matches(key, self._seen, n=1)
        if close or len(inner) > 1:
            return f"did you mean {' or '.join([*map(repr, close), *inner])}?"
        if inner:
            return f"it is the key {inner[0]}"
        return f"known keys here: {', '.join(sorted(self._seen)) or 'none'}"

    def error(self, key: str, what: str, *, hint: str = "") -> ConfigError:
        """A ConfigError about `key` with its line."""
        name = f"{self._section}.{key}" if self._section else key
        page = self._pages.get(name.partition(".")[0], self._pages.get("", "README.md"))
        return ConfigError(f"{self.where(key)}: '{name}' {what}", hint=hint or f"see {page}")

    def where(self, key: str) -> str:
        """`file:line` of `key`."""
        return f"{self._file}:{self.line_of(key)}"

    def line_of(self, key: str) -> int:
        """Line of `key` in this table, of what opens the table where the key is absent, else 1.

        A table is opened by its header, by its first dotted key or by an inline table.
        """
        table = tuple(self._section.split(".")) if self._section else ()
        wanted = (*table, key)
        section: tuple[str, ...] = ()
        header_line, inline_line = 0, 0
        for number, line in enumerate(self._text.splitlines(), start=1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                section = _path(header.group(1))
                if section == wanted:
                    return number
                if section == table:
                    header_line = number
            elif assigned := re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[\w\"'-]+)*)\s*=", line):
                path = (*section, *_path(assigned.group(1)))
                if path[: len(wanted)] == wanted:
                    return number
                if table and path[: len(table)] == table[: len(path)]:
                    inline_line = inline_line or number
        return header_line or inline_line or 1

    def _get(self, key: str, default: Any, kind: Any, wanted: str) -> Any:
        self._seen.add(key)
        value = self._raw.get(key, default)
        if value is _REQUIRED:
            others = [name for name in self._raw if name not in self._seen]
            if close := difflib.get_close_matches(key, others, n=1):
                found = f"'{close[0]}' in line {self.line_of(close[0])} is not a known key"
                raise self.error(key, "is missing", hint=f"{found}: did you mean '{key}'?")
            raise self.error(key, "is missing", hint=f"add it; it must be {wanted}")
        if value is default:
            return value
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, f"must be {wanted}, not {value!r}")
        self._refuse_endless(key, value)
        return value

    def _refuse_endless(self, key: str, value: Any) -> None:
        """No key means anything with inf or nan, which most comparisons let through."""
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, f"is {value}", hint="it must be a finite number")
        if isinstance(value, int) and not -MOST_INTEGER <= value <= MOST_INTEGER:
            raise self.error(key, "has more than 64 bits", hint=f"it must be at most {MOST_INTEGER}")

    def _in_range(self, key: str, value: Any, minimum: float, maximum: float | None) -> Any:
        if value is not None and (value < minimum or (maximum is not None and value > maximum)):
            limit = f"at least {minimum}" + (f" and at most {maximum}" if maximum is not None else "")
            raise self.error(key, f"is {value}", hint=f"it must be {limit}")
        return value

    def _list(self, key: str, default: Any, kind: Any, wanted: str) -> Any:
        value = self._get(key, default, (list, tuple), wanted)
        if value is not None and not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            raise self.error(key, f"must be {wanted}, not {value!r}")
        for one in value or ():
            self._refuse_endless(key, one)
        return value if value is None else tuple(value)


def check_at_most(most: float, values: Mapping[str, float]) -> None:
    """Raises ConfigError for the first of `values`, by the names of their keys, that is above `most`."""
    check_within((-math.inf, most), values)


def check_within(bounds: tuple[float, float], values: Mapping[str, float]) -> None:
    """As `check_at_most` for the first of `values` that is below the first of `bounds` or above the other."""
    least, most = bounds
    for name, value in values.items():
        if not least <= value <= most:
            key = re.split(r"[. ]", name)[-1]
            how, hint = ("small", f"at least {least:g}") if value < least else ("large", f"at most {most:g}")
            raise ConfigError(f"{name} = {value:g} is too {how}", hint=hint, key=key)


def _path(dotted: str) -> tuple[str, ...]:
    """The names of a dotted key, quotes taken off."""
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))


def fill(table: Table, config: Any) -> Any:
    """A copy of the dataclass instance `config` with every field that `table` gives.

    A field that holds a dataclass is a table of its own, `[section.field]`. Types come from the annotations
    (as text, so `int | None` reads an integer). A ConfigError of the dataclass itself is passed on with the
    file and line of its key, or of the field that its message begins with ("section.field ...").
    """
    readers: dict[str, Callable[..., Any]] = {
        "bool": table.flag,
        "int": partial(table.integer, minimum=0),
        "float": table.number,
        "str": table.text,
        "tuple[str, ...]": table.strings,
        "tuple[int, ...]": table.integers,
        "tuple[float, ...]": table.numbers,
    }
    values, nested = {}, {}
    for field in fields(config):
        default = getattr(config, field.name)
        if is_dataclass(default):
            nested[field.name] = fill(table.sub(field.name, required=False), default)
        else:
            values[field.name] = readers[str(field.type).removesuffix(" | None")](field.name, default)
    try:
        return replace(config, **values, **nested)
    except ConfigError as error:
        begins = re.match(r"(?:\w+\.)*(\w+)\b", error.message)
        named = error.key or (begins[1] if begins else "")
        where = table.where(named if named in values else "")
        raise ConfigError(f"{where}: {error.message}", hint=error.hint, key=named) from error
