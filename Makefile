# make demo      fit the project's own mesh, measure it, picture it (results in runs/quickstart)
# make test      the tests
# make install   the set-up alone, which both need; PYTHON=python3.12 make install chooses the interpreter
# make clean     remove the set-up and the demo's results

PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: demo test install clean

demo: install
	$(RUN) train.py
	$(RUN) eval.py runs/quickstart
	$(RUN) render.py runs/quickstart

test: install
	$(RUN) -m pytest

install: .venv/installed

# System packages that Python's own cannot replace: installed where we are root, as in a container; else named.
GL = libgl1 libopengl0 libcom-err2
VENV = $(notdir $(PYTHON))-venv
apt = { test "$$(id -u)" = 0 && apt-get update && apt-get install --yes --no-install-recommends $(1); } || \
	{ echo "error: $(2); first: sudo apt-get install $(1)" >&2; exit 1; }

# The stamp comes last: an interrupted set-up goes on where it stopped, and a changed pin is installed.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.10; name another: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,$(VENV),$(PYTHON) cannot make virtual environments)
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --constraint constraints.txt --editable '.[test]'
	@$(RUN) -c 'import pymeshlab' || $(call apt,$(GL),pymeshlab needs the system OpenGL libraries)
	touch $@

clean:
	rm -rf .venv runs/quickstart
