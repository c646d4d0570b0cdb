"""What a sweep runs, from the command line's short forms."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import ConfigError
from pipeline.search import names
from pipeline.sweep.bench import Job
from pipeline.tomltable import MOST_INTEGER

_MOST = 10_000  # combinations: more is a slip of the finger


def seed_list(text: str) -> list[int]:
    """`0-4,7` is 0, 1, 2, 3, 4, 7. Raises ConfigError."""
    found: dict[int, None] = {}
    for part in _parts(text, "--seeds"):
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", part)
        if not match:
            raise ConfigError(f"--seeds: '{part}' is no seed and no range", hint="for instance 0-4 or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last > MOST_INTEGER:
            raise ConfigError(f"--seeds: '{part}' is too large", hint=f"at most {MOST_INTEGER}")
        if last < first:
            raise ConfigError(f"--seeds: '{part}' is no range of seeds", hint="the smaller one first: 0-4")
        if last - first >= _MOST:
            raise ConfigError(f"--seeds: '{part}' are too many", hint=f"at most {_MOST:,} in one sweep")
        found |= dict.fromkeys(range(first, last + 1))
    return list(found)


def numbers(text: str, option: str) -> list[float]:
    """`20,35,50`, sorted. Raises ConfigError on anything that is not a number above zero."""
    found = []
    for part in _parts(text, option):
        try:
            value = float(part)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"{option}: '{part}' is not a number above 0", hint="for instance 20,35,50")
        found.append(value)
    return sorted(set(found))


def method_list(text: str) -> list[str]:
    """Known search methods, separated by commas. Raises ConfigError."""
    found = list(dict.fromkeys(_parts(text, "--methods")))
    for name in found:
        if name not in names():
            raise ConfigError(f"--methods: unknown '{name}'", hint=f"known: {', '.join(names())}")
    return found


def grid(methods: Sequence[str], seeds: Sequence[int], latencies_ms: Sequence[float]) -> list[Job]:
    """Every combination; seed by seed, so that an interrupted sweep has whole seeds. Raises ConfigError."""
    jobs = [Job(method, seed, latency) for seed in seeds for latency in latencies_ms for method in methods]
    if len(jobs) > _MOST:
        raise ConfigError(f"{len(jobs):,} searches are too many", hint=f"at most {_MOST:,} in one sweep")
    if len({job.name for job in jobs}) < len(jobs):  # which their files are called by
        raise ConfigError(
            "two latency limits have the same first six digits",
            hint="limits that are as near compare nothing",
        )
    return jobs


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"{option} is empty", hint="give at least one, separated by commas")
    return parts
