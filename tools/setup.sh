#!/usr/bin/env bash
# Installs what is missing: Debian/Ubuntu packages (compilers, QEMU, CMake, Ninja) and a virtual
# environment in .venv with the pinned Python packages. Does nothing when all is in place.
#
#   tools/setup.sh          what the demo needs
#   tools/setup.sh all      what the tests need as well: every emulator, simulator, cross-compiler and flasher
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$@" >&2
    exit 2
}

# --- system packages -------------------------------------------------------------------------------
# program : Debian package that brings it
needs=(
    qemu-system-arm:qemu-system-arm
    qemu-system-riscv32:qemu-system-misc
    arm-none-eabi-gcc:gcc-arm-none-eabi
    riscv64-unknown-elf-gcc:gcc-riscv64-unknown-elf
    gcc:gcc
    cmake:cmake
    ninja:ninja-build
    python3:python3
)
extras='search,reference,dev'
if [ "${1:-}" = all ]; then
    needs+=(
        qemu-system-aarch64:qemu-system-arm
        qemu-aarch64:qemu-user
        aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu
        gdb-multiarch:gdb-multiarch
        verilator:verilator
        g++:g++
        make:make
        openocd:openocd
        stm32flash:stm32flash
        dfu-util:dfu-util
    )
    extras+=',ray,rtl'
fi
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
# the cross-compiler's C headers, and libc's headers for the host compiler, are packages of their own
[ -e /usr/lib/arm-none-eabi/include/string.h ] || command -v arm-none-eabi-newlib >/dev/null ||
    missing+=(libnewlib-arm-none-eabi)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
[ "${1:-}" != all ] || [ -e /usr/aarch64-linux-gnu/include/stdio.h ] || missing+=(libc6-dev-arm64-cross)
if command -v python3 >/dev/null; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
else
    missing+=(python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    say "missing: ${missing[*]}"
    command -v apt-get >/dev/null || die "no apt-get here; install these by your system's own means and run make again"
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
            die "may not install packages (not root, no password-less sudo). Run:" \
                "  sudo apt-get install --no-install-recommends ${missing[*]}" "and then make again"
        sudo=(sudo -n)
    fi
    log=$(mktemp)
    say "installing them with apt-get (log: $log)"
    { "${sudo[@]}" apt-get update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            "${missing[@]}"; } >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        die "apt-get failed; the whole log is $log"
    }
fi

# --- Python environment ----------------------------------------------------------------------------
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"

stamp=.venv/.edgenas-stamp
wanted="$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -d' ' -f1) $extras"
have=$(cat "$stamp" 2>/dev/null || true)
# an environment for the tests serves the demo too
if [ "$have" != "$wanted" ] && [ "$have" != "$wanted,ray,rtl" ]; then
    say "installing the Python packages into .venv (a few minutes the first time)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
    # torch first and pinned: a looser request may bring gigabytes of GPU libraries
    "${pip[@]}" "${EDGENAS_TORCH:-torch==2.13.0}" 2>.venv/.setup.log ||
        { tail -n 5 .venv/.setup.log >&2; die "pip could not install torch (no network?)"; }
    "${pip[@]}" -e ".[$extras]" 2>>.venv/.setup.log ||
        { tail -n 5 .venv/.setup.log >&2; die "pip could not install the packages; log: .venv/.setup.log"; }
    printf '%s\n' "$wanted" >"$stamp"
fi
say "ready"
