"""The generated Renode platform, and the connection to a stand-in for Renode (which is not at hand to be run)."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path

import pytest

from pipeline.boards import board_names, load_board
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.links import open_link
from pipeline.links.renode import platform, script

FAKE = """#!{python}
import re, socket, sys
commands = open(sys.argv[sys.argv.index("-e") + 1].removeprefix("include @")).read()
port = int(re.search(r"CreateServerSocketTerminal (\\d+)", commands).group(1))
server = socket.create_server(("127.0.0.1", port))
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data.upper())
"""


def install(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "renode"
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize("name", ["nucleo-f446re", "nucleo-h743zi2", "arduino-nano-33-ble", "hifive1-revb"])
def test_the_platform_has_the_boards_memories_and_uart(name: str) -> None:
    board = load_board(name)
    text = platform(board)
    for region in (board.memory.flash, board.memory.sram):
        assert f"sysbus 0x{region.origin:08X}\n    size: 0x{region.bytes:X}\n" in text
    assert re.search(rf"^uart: UART\.\w+ @ sysbus <0x{board.uart.base:08X}, ", text, flags=re.MULTILINE)
    assert text.count("cpu: ") == 1


def test_every_real_board_with_a_model_renders_and_the_others_say_so() -> None:
    for board in map(load_board, board_names()):
        if board.emulator is None:
            try:
                assert platform(board)
            except ConfigError as error:
                assert board.name in error.message and "UARTs:" in error.hint


def test_the_script_loads_and_connects(tmp_path: Path) -> None:
    text = script(load_board("nucleo-f446re"), tmp_path / "fw.elf", tmp_path / "b.repl", 4711)
    assert f"sysbus LoadELF @{tmp_path / 'fw.elf'}" in text
    assert 'CreateServerSocketTerminal 4711 "wire" false' in text
    assert text.index("LoadPlatformDescription") < text.index("connector Connect") < text.index("start\n")


def test_bytes_reach_it_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, FAKE.format(python=sys.executable), monkeypatch)
    with open_link(load_board("nucleo-f446re"), tmp_path / "fw.elf", port="renode") as link:
        link.write(b"hello")
        assert link.read(5.0) == b"HELLO"


def test_one_that_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, f"#!{sys.executable}\nraise SystemExit('no licence for Mondays')\n", monkeypatch)
    with pytest.raises(LinkError, match="Renode has ended") as caught:
        open_link(load_board("nucleo-f446re"), tmp_path / "fw.elf", port="renode")
    assert "Mondays" in caught.value.hint


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="Renode is not installed"):
        open_link(load_board("nucleo-f446re"), tmp_path / "fw.elf", port="renode")
