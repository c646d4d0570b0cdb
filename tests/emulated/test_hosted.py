"""Firmware under an operating system: this machine, and a Linux board over SSH (whose processor qemu-user emulates)."""

from __future__ import annotations

import shutil
import stat
import zlib
from pathlib import Path

import pytest
from board_cases import OPERATORS, OPERATORS_CRC

from pipeline.boards import load_board
from pipeline.errors import LinkError, ToolError
from pipeline.firmware import Build, build, render_bench
from pipeline.links import open_link
from pipeline.wire.client import Client

PI = load_board("raspberry-pi-3")
pytestmark = pytest.mark.emulated
needs_compiler = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="needs gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
)
needs_user_mode = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")

# A stand-in for ssh: copies to this machine, and runs the program in QEMU's user mode.
SSH = """#!/bin/sh
for last; do :; done
case "$last" in
cat*) exec sh -c "$last" ;;
*) exec qemu-aarch64 "${last%%;*}" ;;
esac
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(PI, tmp_path_factory.mktemp("pi")), PI)


def install_ssh(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "ssh"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@needs_compiler
@needs_user_mode
def test_the_same_bytes_over_ssh(program: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_ssh(tmp_path, SSH, monkeypatch)
    with open_link(PI, program.elf, port="ssh://pi@raspberrypi:2222") as link:
        client = Client(link)
        assert client.hello().build_id == program.build_id
        crc = 0
        for op in OPERATORS:
            reply = client.run_op(op, repetitions=3)
            crc = zlib.crc32(str(reply.output_crc).encode(), crc)
        assert crc == OPERATORS_CRC
        memory = client.memory()
    assert 0.5 < memory.static_bytes / program.static_ram_bytes < 1.5
    assert memory.flash_bytes > 10_000


@needs_compiler
def test_a_host_that_refuses(program: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_ssh(
        tmp_path,
        "#!/bin/sh\necho 'pi@raspberrypi: Permission denied (publickey).' >&2\nexit 255\n",
        monkeypatch,
    )
    with pytest.raises(LinkError, match="Permission denied") as caught:
        open_link(PI, program.elf, port="ssh://pi@raspberrypi")
    assert "password" in caught.value.hint


@pytest.mark.parametrize("target", ["ssh://", "ssh://pi@host;rm", "ssh://-oProxyCommand=x"])
def test_no_such_target(target: str, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no SSH target"):
        open_link(PI, tmp_path / "firmware.elf", port=target)


def test_another_machine_needs_a_port(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="another machine") as caught:
        open_link(PI, tmp_path / "firmware.elf")
    assert "--port" in caught.value.hint


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no firmware"):
        open_link(load_board("host"), tmp_path / "firmware.elf")
