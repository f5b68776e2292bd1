# Every command of the project. A target that needs the environment makes it; `make` alone lists them.

DATA ?= sample
STORE ?= stores/$(NAME)
RUNS ?= runs/$(NAME)
FORMAT ?= zarr
PRETRAINED ?= auto
TORCH_INDEX ?=
CACHE_ARGS ?=
DATA_ARGS ?=
EXPORT_ARGS ?=
PREDICT_ARGS ?=
SOURCE ?=
TRAIN_ARGS ?=
FIFTYONE_ARGS ?=

# make's functions take a space for the end of a word: names go through them with a | in its place.
empty :=
space := $(empty) $(empty)
NAME = $(subst |,$(space),$(notdir $(patsubst %/,%,$(subst $(space),|,$(DATA)))))
in_data = $(wildcard $(subst $(space),\ ,$(DATA_DIR)/$(1)))

PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/ready
FIFTYONE_PY := .venv-fiftyone/bin/python
FIFTYONE_READY := .venv-fiftyone/ready

TRAIN_STORE = $(STORE)/train.$(FORMAT)
VAL_STORE = $(STORE)/val.$(FORMAT)

ifeq ($(DATA),sample)
DATA_DIR = data/sample
TEACHER ?= hrnet_w16_sample
ifeq ($(TEACHER),hrnet_w16_sample)
CHECKPOINT ?= precompute/sample/hrnet_w16_sample.safetensors
INPUT_SIZE ?= 128x96
endif
RECIPE ?= --config configs/sample.toml
GET_DATA = $(PY) -m precompute.sample --out data/sample
else ifeq ($(DATA),coco)
DATA_DIR = data/coco
TEACHER ?= hrnet_w32
RECIPE ?= --config configs/coco.toml
GET_DATA = $(PY) -m precompute.fetch.coco --out "$(DATA_DIR)" $(DATA_ARGS)
else
DATA_DIR = $(DATA)
TEACHER ?= hrnet_w32
endif
INPUT_SIZE ?= $(if $(filter onnx:% hrnet_w32_% hrnet_w48_%,$(TEACHER)),,256x192)

IMAGES ?= $(or $(call in_data,val2017),$(call in_data,images/val2017),$(call in_data,val),$(call in_data,images/val),$\
	$(call in_data,images),$(call in_data,validation/data))

PRECOMPUTE = $(PY) -m precompute --data "$(DATA_DIR)" --teacher "$(TEACHER)" \
	$(if $(INPUT_SIZE),--input-size $(INPUT_SIZE)) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") --resume $(CACHE_ARGS)
TRAIN = --store "$(TRAIN_STORE)" --val-store "$(VAL_STORE)" --pretrained "$(PRETRAINED)" $(RECIPE) $(TRAIN_ARGS)

ifneq ($(filter predict,$(MAKECMDGOALS)),)
ifeq ($(SOURCE),)
$(error say what to look at: make predict SOURCE=photo.jpg)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo data sample teacher cache baseline distill evaluate report export predict fiftyone has-images test \
	test-fast check docs notebook bench clean

help: ## this list
	@echo "make TARGET [VARIABLE=value ...]"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo; echo "Variables (value now):"
	@echo "  DATA          sample, coco, or a data folder ($(DATA))"
	@echo "  TEACHER       hrnet_w32, hrnet_w48_384x288, ... or onnx:FILE ($(TEACHER))"
	@echo "  CHECKPOINT    weights of an HRNet teacher; mmpose's published ones are downloaded ($(CHECKPOINT))"
	@echo "  INPUT_SIZE    of the teacher, height x width ($(INPUT_SIZE))"
	@echo "  STORE, RUNS   folders of the stores and of the runs ($(STORE), $(RUNS))"
	@echo "  FORMAT        zarr or h5 ($(FORMAT))"
	@echo "  PRETRAINED    the student's ImageNet weights: auto, none, or a file ($(PRETRAINED))"
	@echo "  CACHE_ARGS    more flags for python -m precompute ($(CACHE_ARGS))"
	@echo "  DATA_ARGS     more flags for python -m precompute.fetch.coco ($(DATA_ARGS))"
	@echo "  SOURCE        what make predict looks at ($(SOURCE))"
	@echo "  RECIPE        the student's training, where it is not the default ($(RECIPE))"
	@echo "  IMAGES        folder of the validation images, for FiftyOne ($(IMAGES))"
	@echo "  FIFTYONE_ARGS more flags for python -m train fiftyone, e.g. --port 5152 ($(FIFTYONE_ARGS))"
	@echo "  TRAIN_ARGS    more flags for python -m train distill and baseline ($(TRAIN_ARGS))"
	@echo "  EXPORT_ARGS   more flags for python -m train export ($(EXPORT_ARGS))"
	@echo "  PREDICT_ARGS  more flags for python -m train predict, e.g. --boxes FILE ($(PREDICT_ARGS))"
	@echo "  TORCH_INDEX   package index of torch, e.g. https://download.pytorch.org/whl/cpu ($(TORCH_INDEX))"

setup: $(READY) ## the environment in .venv (uv if present, else pip)

$(READY): pyproject.toml
	@if command -v uv >/dev/null; then \
		uv venv -q --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv && install="uv pip install -q --python $(PY)"; \
	else \
		$(PYTHON) -m venv .venv && install="$(PY) -m pip install -q --disable-pip-version-check"; \
	fi; \
	set -e; echo "installing into .venv (torch is large: some minutes)"; \
	$(if $(TORCH_INDEX),$$install --index-url $(TORCH_INDEX) torch torchvision;) \
	$$install -e '.[dev,teacher]'
	@touch $@

demo: $(READY) ## the whole main job on the embedded sample, with a report at the end (about ten minutes on two cores)
	@$(MAKE) --no-print-directory cache DATA=sample
	@$(MAKE) --no-print-directory baseline DATA=sample TRAIN_ARGS="--overwrite $(TRAIN_ARGS)"
	@$(MAKE) --no-print-directory distill DATA=sample TRAIN_ARGS="--overwrite $(TRAIN_ARGS)"
	@$(MAKE) --no-print-directory evaluate report DATA=sample
	@echo "open $(CURDIR)/runs/sample/report.html"

sample: $(READY) ## the embedded sample: images and annotations in data/sample
	$(PY) -m precompute.sample --out data/sample

teacher: $(READY) ## train the sample's HRNet teacher again, and print its AP and PCK
	$(PY) -m precompute.sample.train_teacher --data data/teacher --out data/teacher/hrnet_w16_sample.safetensors

data: $(READY) ## the data of DATA=sample or DATA=coco (20 GB; DATA_ARGS="--splits val": 1 GB), resumable
	$(GET_DATA)

cache: data ## run the teacher once: train and val stores
	$(PRECOMPUTE) --split train --store "$(TRAIN_STORE)"
	$(PRECOMPUTE) --split val --store "$(VAL_STORE)"

baseline: $(READY) ## train the student on the ground truth alone
	$(PY) -m train baseline $(TRAIN) --out "$(RUNS)/baseline"

distill: $(READY) ## train the student on the store's teacher
	$(PY) -m train distill $(TRAIN) --out "$(RUNS)/distilled"

evaluate: $(READY) ## AP, AR and PCK of the cached teacher and of both students
	@$(PY) -m train evaluate --store "$(VAL_STORE)" --teacher --out "$(RUNS)/teacher.json"
	@for run in baseline distilled; do if [ -f "$(RUNS)/$$run/best.pt" ]; then \
		$(PY) -m train evaluate --store "$(VAL_STORE)" --student "$(RUNS)/$$run/best.pt" --out "$(RUNS)/$$run/evaluation.json" || exit 1; \
	fi; done

report: $(READY) ## one HTML file: teacher, baseline and distilled student side by side
	@$(PY) -m train report --store "$(VAL_STORE)" --runs "$(RUNS)/baseline" "$(RUNS)/distilled" --out "$(RUNS)/report.html"

export: $(READY) ## the distilled student as ONNX, checked against PyTorch (EXPORT_ARGS=--int8 for an 8-bit one too)
	$(PY) -m train export --student "$(RUNS)/distilled/best.pt" --store "$(VAL_STORE)" --out "$(RUNS)/student.onnx" $(EXPORT_ARGS)

predict: $(READY) ## keypoints of SOURCE=picture, folder or video with the exported student
	$(PY) -m train predict "$(SOURCE)" --student "$(RUNS)/student.onnx" --out "$(RUNS)/predictions" $(PREDICT_ARGS)

fiftyone: has-images $(READY) $(FIFTYONE_READY) ## labels, teacher and students on the original images, in FiftyOne's App
	@set --; for run in baseline distilled; do if [ -f "$(RUNS)/$$run/best.pt" ]; then set -- "$$@" "$(RUNS)/$$run/best.pt"; fi; done; \
	$(PY) -m train fiftyone --store "$(VAL_STORE)" --images "$(IMAGES)" --teacher $${1:+--student} "$$@" \
		--out "$(RUNS)/fiftyone" --python $(FIFTYONE_PY) $(FIFTYONE_ARGS)

has-images:
	@test -n "$(IMAGES)" || { echo "error: no validation images in $(DATA_DIR); $(if $(filter sample,$(DATA)),run make sample or )name their folder: IMAGES=DIR" >&2; exit 1; }

$(FIFTYONE_READY):
	@echo "installing FiftyOne into .venv-fiftyone (1 GB: some minutes)"
	@$(PYTHON) -m venv .venv-fiftyone && $(FIFTYONE_PY) -m pip install -q --disable-pip-version-check 'fiftyone>=1.0'
	@touch $@

test: $(READY) ## the whole test suite
	$(PY) -m pytest -n auto --dist loadfile

test-fast: $(READY) ## the suite without the slow tests
	$(PY) -m pytest -n auto --dist loadfile -m "not slow"

check: $(READY) ## lint, format, types and the import law
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@if [ -x .venv/bin/hadolint ]; then .venv/bin/hadolint Dockerfile; else echo "Dockerfile not linted: no hadolint for this platform"; fi
	$(PY) -m pytest tests/repository/test_imports.py

docs: $(READY) ## the documentation as a site in site/, with the Python API; a warning is an error
	$(PY) -m sphinx -q -W --keep-going -b html docs site
	@echo "open $(CURDIR)/site/index.html"

notebook: $(READY) ## run the lesson in notebooks/ from top to bottom and keep its outputs (6 minutes on 2 cores)
	$(PY) notebooks/execute.py
	@echo "look at it: notebooks/knowledge-distillation-for-2d-hpe.ipynb"

bench: $(READY) ## every benchmark; JSON lines to stdout and benchmarks/results/
	$(PY) -m benchmarks

clean: ## delete the sample, stores, runs, site and caches, but not the environment
	rm -rf data/sample stores/sample runs/sample site .mypy_cache .ruff_cache .pytest_cache
