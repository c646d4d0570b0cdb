"""PlatformIO, after the platform's own script: linked as CMake does it, with the same build id."""

import hashlib
import json
import subprocess
from pathlib import Path

from SCons.Script import DefaultEnvironment

env = DefaultEnvironment()
project = Path(env.subst("$PROJECT_DIR"))
recipe = json.loads((project / "platformio" / "recipe.json").read_text(encoding="utf-8"))


def identity(compiler):
    """What firmware/templates/CMakeLists.txt.j2 hashes: compiler, flags and every input."""
    version = subprocess.run(
        [compiler, "-dumpfullversion"], capture_output=True, text=True, env=env["ENV"], check=True
    ).stdout.strip()
    parts = [f"GNU {version}", " ".join(recipe["cflags"]), *recipe["flags"]]
    inputs = [
        path.relative_to(project).as_posix()
        for folder in recipe["folders"]
        for path in (project / folder).rglob("*.[chS]")
    ]
    for name in [*sorted(inputs), "linker.ld"]:
        parts.append(f"{name}={hashlib.sha256((project / name).read_bytes()).hexdigest()}")
    return hashlib.sha256(";".join(parts).encode()).digest()


def write_build_id(compiler):
    folder = Path(env.subst("$BUILD_DIR")) / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    octets = "".join(f"0x{octet:02x}, " for octet in identity(compiler)[: recipe["build_id_bytes"]])
    header, text = folder / "build_id.h", f"#define EDGENAS_BUILD_ID {{{octets}}}\n"
    if not header.is_file() or header.read_text(encoding="utf-8") != text:
        header.write_text(text, encoding="utf-8")


write_build_id(env.subst("$CC"))
env.Replace(
    LINKFLAGS=[*recipe["link_flags"], f"-T{project / 'linker.ld'}"],
    LIBS=["gcc"],
    LIBPATH=[],
    _LIBFLAGS="-lgcc",
)
env.Depends("$BUILD_DIR/${PROGNAME}${PROGSUFFIX}", str(project / "linker.ld"))
