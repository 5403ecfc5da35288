# Every target makes .venv when it is absent. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
ACCEL  ?=
EXTRAS ?=
JOBS   ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Large blocks stay in the process and lie on huge pages: a training step no longer takes some hundred thousand
# page faults (1.1 to 1.3 times faster on a CPU). Known to glibc from 2.35; others ignore it. Read at process start.
# One arena: those of other threads give their blocks back and clear new pages every step (1.1 to 1.15 times).
ALLOCATOR = GLIBC_TUNABLES=$${GLIBC_TUNABLES:+$$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1 \
  MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1

.PHONY: help setup demo test test-slow allocator clean
.DEFAULT_GOAL := help

help:
	@echo 'make setup      the environment, in $(VENV) (ACCEL=cuda|cuda13|tpu, EXTRAS=bench,tfds,tensorboard,wandb,'
	@echo '                PYTHON=python3.13)'
	@echo 'make demo       trains everything on drawn scenes in ten minutes: runs/demo/report/index.html'
	@echo 'make test       the quick tests, in JOBS=2 processes'
	@echo 'make test-slow  the slow ones'
	@echo 'make allocator  prints the settings of memory that `make demo` and the benchmarks of speed run under'
	@echo 'make clean      removes build files and caches; $(VENV) and runs stay'

# $(VENV)/unitok-setup says what was installed and is written last; $(VENV)/unitok-unfinished lies there meanwhile, and
# an environment found with it (a killed set-up) is made anew. Extras asked for earlier stay.
setup:
	@set -eu; \
	fail() { echo "make $(or $(firstword $(MAKECMDGOALS)),setup): $$1" >&2; exit 1; }; \
	for name in $$(echo '$(ACCEL)' | tr ',' ' '); do case $$name in cuda|cuda13|tpu) ;; \
	  *) fail "ACCEL=$$name is unknown; legal: cuda, cuda13, tpu, or nothing for the CPU" ;; esac; done; \
	for name in $$(echo '$(EXTRAS)' | tr ',' ' '); do case $$name in bench|tfds|tensorboard|wandb) ;; \
	  *) fail "EXTRAS=$$name is unknown; legal, with commas between: bench, tfds, tensorboard, wandb" ;; esac; done; \
	record='$(VENV)/unitok-setup'; unfinished='$(VENV)/unitok-unfinished'; python='$(VENV)/bin/python'; \
	version() { "$$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }; \
	have=$$(version "$$python"); fresh=; \
	if [ -z "$$have" ] || [ -e "$$unfinished" ]; then fresh=yes; fi; \
	if [ '$(origin PYTHON)' != file ] && [ "$$have" != "$$(version '$(PYTHON)')" ]; then fresh=yes; fi; \
	extras=$$({ [ -n "$$fresh" ] || sed -n 's/^extras //p' "$$record" 2>/dev/null || true; echo '$(ACCEL) $(EXTRAS) test'; } \
	  | tr ', ' '\n\n' | sort -u | sed '/^$$/d' | paste -sd, -); \
	wanted=$$(cat pyproject.toml constraints.txt | cksum; pwd; echo "extras $$extras"); \
	if [ -z "$$fresh" ] && [ "$$wanted" = "$$(cat "$$record" 2>/dev/null)" ]; then exit 0; fi; \
	if [ -n "$$fresh" ]; then \
	  found=$$(version '$(PYTHON)'); \
	  [ -n "$$found" ] || fail "PYTHON=$(PYTHON) does not run; install Python 3.11 or later, or name one: make setup PYTHON=/path/to/python3"; \
	  '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    fail "PYTHON=$(PYTHON) is Python $$found, unitok needs 3.11 or later; name one: make setup PYTHON=python3.13"; \
	  echo "making $(VENV) with Python $$found (a minute or two)"; \
	  [ ! -e '$(VENV)' ] || [ -e "$$unfinished" ] || [ -e '$(VENV)/pyvenv.cfg' ] || \
	    fail "VENV=$(VENV) exists and is no environment; name another folder"; \
	  mkdir -p '$(VENV)'; touch "$$unfinished"; \
	  find '$(VENV)' -mindepth 1 -maxdepth 1 ! -name unitok-unfinished -exec rm -rf {} +; \
	  '$(PYTHON)' -m venv '$(VENV)' || fail "$(PYTHON) could not make $(VENV), see above"; \
	fi; \
	touch "$$unfinished"; \
	echo "installing unitok[$$extras] in $(VENV)"; \
	"$$python" -m pip install --quiet -e ".[$$extras]" -c constraints.txt || \
	  { rm -f "$$unfinished" "$$record"; fail "installing into $(VENV) failed, see above; run it again"; }; \
	echo "$$wanted" > "$$record"; rm -f "$$unfinished"

demo: setup
	@echo "allocator: $(ALLOCATOR)"
	$(ALLOCATOR) $(VENV)/bin/python -m train.pipeline --config configs/scenes_demo.py --workdir runs/demo

# A file's tests stay in one process. The quick ones compile small programs, which take longer to optimize than to run.
TEST = $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: setup
	XLA_FLAGS="$$($(VENV)/bin/python tests/quickly.py) $$XLA_FLAGS" $(TEST) -m 'not slow'

test-slow: setup
	$(TEST) -m slow

allocator:
	@echo "$(ALLOCATOR)"

clean:
	rm -rf build dist .cache .pytest_cache *.egg-info
	find . -path './$(VENV)*' -prune -o -path ./.git -prune -o -path ./runs -prune -o \
	  -name __pycache__ -prune -exec rm -rf {} +
