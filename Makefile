# make demo   set up what is missing, then go from a data set to checked firmware on an emulated board
# make test   set up what is missing, then run the tests
# make lint   ruff, mypy, clang-format
# make lut    measure the shipped latency tables again (after a change to firmware/engine)

PY := .venv/bin/python
C_FILES = $(shell git ls-files 'firmware/*.c' 'firmware/*.h')

.PHONY: demo test lint lut setup setup-all clean

demo: setup
	.venv/bin/edgenas run examples/fashion_mnist_cortex_m4.toml

test: setup-all
	$(PY) -m pytest -n 2 --dist loadfile --durations=10 tests

lint: setup-all
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/clang-format --dry-run -Werror $(C_FILES)

lut: setup-all
	.venv/bin/edgenas profile --board qemu-cortex-m4 --board qemu-cortex-m7 --board qemu-rv32 --board qemu-cortex-a53

setup:
	@tools/setup.sh

setup-all:
	@tools/setup.sh all

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
