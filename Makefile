# Everything a user or a developer does here, by name. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALERTMANAGER := $(or $(shell command -v prometheus-alertmanager 2>/dev/null),$(VENV)/prometheus/usr/bin/prometheus-alertmanager)
PROMTOOL := $(or $(shell command -v promtool 2>/dev/null),$(VENV)/prometheus/usr/bin/promtool)
# Where the environment turns bytecode off, each of the thousand processes of the tests would compile all sources again.
export PYTHONDONTWRITEBYTECODE :=
APT := apt-get -qq -o APT::Sandbox::User=root

.DEFAULT_GOAL := help
.PHONY: help demo compile test check bench bench-alerts bench-checkpoint bench-detection bench-openrlhf openrlhf-env test-openrlhf clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A fresh Debian may lack ensurepip: then, as root, python3-venv is installed; otherwise it is named.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed (make PYTHON=python3.11)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install -y python3-venv; } \
		|| { echo "python3-venv is needed: sudo apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[daemon]' --group dev
	@touch $@

# One test lets a real Prometheus scrape the daemon. Debian's package is only unpacked: no service is installed.
$(PROMTOOL): | $(VENV)/installed
	@cd $(VENV) && { $(APT) download prometheus 2>/dev/null || { [ "$$(id -u)" = 0 ] && $(APT) update && $(APT) download prometheus; }; } \
		&& dpkg-deb -x prometheus_*.deb prometheus && rm prometheus_*.deb \
		|| echo "without Prometheus one test will fail: sudo apt-get install prometheus"

# One test hands alerts to a real Alertmanager, in the same way.
$(ALERTMANAGER): | $(PROMTOOL)
	@cd $(VENV) && $(APT) download prometheus-alertmanager && dpkg-deb -x prometheus-alertmanager_*.deb prometheus \
		&& rm prometheus-alertmanager_*.deb || echo "without Alertmanager one test will fail: sudo apt-get install prometheus-alertmanager"

demo: $(VENV)/installed ## play a recorded OpenRLHF run with a fault; watch the alerts arrive
	@$(BIN)/rlhfd demo

compile: $(VENV)/installed ## compile again what each sample goes through (after changes; without it the sources are interpreted)
	@$(BIN)/python hatch_build.py

test: compile $(PROMTOOL) $(ALERTMANAGER) ## all tests that need no OpenRLHF, on all cores
	$(BIN)/pytest -n logical --dist loadfile

check: $(VENV)/installed ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: compile ## what emit() costs beside its peers, and the daemon its node
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	$(BIN)/python tests/bench/emit_cost.py
	$(BIN)/python tests/bench/startup_cost.py
	$(BIN)/python tests/bench/daemon_load.py

bench-checkpoint: compile ## how fast tensors of a checkpoint are counted, beside numpy and torch
	PYTHONPATH=tests $(BIN)/python tests/bench/checkpoint.py

bench-alerts: compile $(ALERTMANAGER) ## what becomes of alerts under kills and refusals beside an Alertmanager, and how fast they are (15 min)
	$(BIN)/python tests/bench/alert_delivery.py
	$(BIN)/python tests/bench/alert_latency.py

bench-detection: compile ## how well faults are found, on labelled runs, beside simpler ways
	$(BIN)/python tests/bench/detection.py

bench-openrlhf: $(VENV)/installed openrlhf-env ## what the hooks cost a real PPO run (half an hour)
	PYTHONPATH=tests $(BIN)/python tests/bench/hook_overhead.py
	PYTHONPATH=tests $(BIN)/python tests/bench/step_time.py

openrlhf-env: ## build the CPU environment with OpenRLHF, Ray, vLLM and DeepSpeed (4 min, 5 GB, once)
	@tests/openrlhf/build_env.sh

test-openrlhf: $(VENV)/installed openrlhf-env ## the tests on real OpenRLHF runs
	$(BIN)/pytest tests/openrlhf --timeout 1200

clean: ## remove the virtual environment and caches in this folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
