"""PlatformIO, before the platform's own script: every source is compiled with exactly CMake's flags."""

import json
import shutil
from pathlib import Path

from SCons.Script import COMMAND_LINE_TARGETS, DefaultEnvironment

env = DefaultEnvironment()
project = Path(env.subst("$PROJECT_DIR"))
recipe = json.loads((project / "platformio" / "recipe.json").read_text(encoding="utf-8"))


def with_our_flags(env, node):
    """The platform's defaults (optimization, macros of its frameworks) would give another program."""
    name = Path(node.srcnode().get_abspath()).resolve().relative_to(project.resolve()).as_posix()
    flags = [*recipe["cflags"], *recipe["flags"], f"-ffile-prefix-map={project}=."]
    return env.Object(
        node,
        CCFLAGS=[*flags, *recipe["file_flags"].get(name, [])],
        CFLAGS=[],
        ASPPFLAGS=flags,
        ASFLAGS=[],
        CPPDEFINES=[],
        CPPPATH=[*(str(project / folder) for folder in recipe["includes"]), "$BUILD_DIR/generated"],
        AS="$CC",
    )


env.AddBuildMiddleware(with_our_flags)

# `-t nobuild -t upload` sends what lies in the build folder; edgenas leaves the program here to be sent.
if "nobuild" in COMMAND_LINE_TARGETS:
    build = Path(env.subst("$BUILD_DIR"))
    build.mkdir(parents=True, exist_ok=True)
    for staged in (project / "platformio" / "staged").glob("firmware.*"):
        shutil.copy(staged, build / staged.name)
