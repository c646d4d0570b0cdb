"""The front end as C: the fixed source, and its tables rendered for one configuration."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.assets import asset_dir
from pipeline.frontend import config
from pipeline.frontend.config import FrontEnd

_A_LINE = 12


def frontend_sources(front_end: FrontEnd) -> dict[str, str]:
    """{file name: text}: frontend.h, frontend.c and the rendered frontend_config.h and frontend_tables.c."""
    folder = asset_dir("firmware") / "frontend"
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.[ch]"))}
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    environment.filters["numbers"] = _numbers
    starts = [0]
    for _, weights in front_end.filters:
        starts.append(starts[-1] + len(weights))
    values = {
        "f": front_end, "k": config, "cos": front_end.twiddles[0], "sin": front_end.twiddles[1],
        "firsts": [first for first, _ in front_end.filters], "starts": starts,
        "weights": [int(weight) for _, weights in front_end.filters for weight in weights],
    }  # fmt: skip
    for name in ("frontend_config.h", "frontend_tables.c"):
        files[name] = environment.get_template(f"{name}.j2").render(values)
    return files


def _numbers(values: Sequence[int]) -> str:
    texts = [str(int(value)) for value in values]
    lines = [", ".join(texts[at : at + _A_LINE]) for at in range(0, len(texts), _A_LINE)]
    return ",\n    ".join(lines)
