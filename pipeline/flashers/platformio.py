"""PlatformIO: its upload tools for a board, fetched from its registry on first use."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.errors import ToolError
from pipeline.firmware import platformio
from pipeline.flashers.flasher import ANY, Flasher, Target


class PlatformIo(Flasher):
    """Uploads the ELF as it is (`-t nobuild`), through the project that lies in its firmware folder."""

    kind = "platformio"
    program = "pio"
    remedy = "pip install platformio"
    keys: ClassVar = platformio.SETTINGS
    hints: ClassVar = {
        "HTTPClientError|internet connection|UnknownPackageError":
            "PlatformIO's registry is out of reach: use another flasher (--with), see edgenas doctor",
        "please specify `?upload_port": "name the port: --port",
    }  # fmt: skip
    timeout_s = 600.0  # the first upload fetches tools

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        settings = self.settings(board)
        arguments = [self.program_of(board), "run", "-d", str(project_folder(elf)), "-e", settings["board"]]
        if target.port:
            arguments += ["--upload-port", target.port]
        return [*arguments, "-t", "nobuild", "-t", "upload"]

    def prepare(self, board: Board, elf: Path) -> None:
        folder = project_folder(elf)
        platformio.write_project(folder, board)
        platformio.stage_firmware(folder, elf)


def project_folder(elf: Path) -> Path:
    """The firmware folder that `elf` was built in. Raises ToolError where it lies elsewhere."""
    for folder in elf.resolve().parents:
        if (folder / "linker.ld").is_file() and (folder / "port").is_dir():
            return folder
    raise ToolError(
        f"{elf} lies in no firmware folder, which PlatformIO needs",
        hint="flash the ELF in its build folder, or use another flasher (--with)",
    )
