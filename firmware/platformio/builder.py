"""A PlatformIO platform that fetches nothing: compilers from the path, nothing to upload with."""

import json
from pathlib import Path

from SCons.Script import COMMAND_LINE_TARGETS, AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
recipe = Path(env.subst("$PROJECT_DIR")) / "platformio" / "recipe.json"
prefix = json.loads(recipe.read_text(encoding="utf-8"))["toolchain"]

env.Replace(
    AR=f"{prefix}ar",
    AS=f"{prefix}gcc",
    CC=f"{prefix}gcc",
    CXX=f"{prefix}g++",
    LINK=f"{prefix}gcc",
    OBJCOPY=f"{prefix}objcopy",
    RANLIB=f"{prefix}ranlib",
    PROGNAME="firmware",
    PROGSUFFIX=".elf",
)

elf = "$BUILD_DIR/firmware.elf" if "nobuild" in COMMAND_LINE_TARGETS else env.BuildProgram()
AlwaysBuild(env.Alias("nobuild", elf))
env.AddPlatformTarget(
    "upload",
    elf,
    env.VerboseAction("@echo 'the environment local only builds; use edgenas flash' && false", "Uploading"),
    "Upload",
)
Default(env.Alias("buildprog", elf))
