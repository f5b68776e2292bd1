# All commands of the project; `make` alone lists them. Targets that need the environment install it first.

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
CARD_ARGS ?=
RELEASE_ARGS ?=
SOURCE ?=
WEB_ARGS ?=
TRAIN_ARGS ?=
LABELLED ?= 150
FIFTYONE_ARGS ?=

# In make's functions, spaces separate words. Spaces in names are therefore replaced by | while they are processed.
empty :=
space := $(empty) $(empty)
NAME = $(subst |,$(space),$(notdir $(patsubst %/,%,$(subst $(space),|,$(DATA)))))
in_data = $(wildcard $(subst $(space),\ ,$(DATA_DIR)/$(1)))

PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/ready
FIFTYONE_PY := .venv-fiftyone/bin/python
FIFTYONE_READY := .venv-fiftyone/ready

# The training split. The sample's has few labels; its other persons have boxes only.
TRAIN_SPLIT = train
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
GET_DATA = $(PY) -m precompute.sample --out data/sample --few $(LABELLED)
TRAIN_SPLIT = few --unlabelled
CACHE_NOTE = @echo "The teacher's AP is lower on train than on val: train labels have the errors of annotators, val labels are exact."
else ifeq ($(DATA),coco)
DATA_DIR = data/coco
TEACHER ?= hrnet_w32
RECIPE ?= --config configs/coco.toml
GET_DATA = $(PY) -m precompute.fetch.coco --out "$(DATA_DIR)" $(DATA_ARGS)
else
DATA_DIR = $(DATA)
TEACHER ?= hrnet_w32
endif
INPUT_SIZE ?= $(if $(filter onnx:% hf:% hrnet_w32_% hrnet_w48_%,$(TEACHER)),,256x192)

IMAGES ?= $(or $(call in_data,val2017),$(call in_data,images/val2017),$(call in_data,val),$(call in_data,images/val),$\
	$(call in_data,images),$(call in_data,validation/data))

PRECOMPUTE = $(PY) -m precompute --data "$(DATA_DIR)" --teacher "$(TEACHER)" \
	$(if $(INPUT_SIZE),--input-size $(INPUT_SIZE)) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") --resume $(CACHE_ARGS)
# The demo continues a run that was not finished (CONTINUE=yes), and replaces a finished one.
begin = $(if $(CONTINUE),$$(if [ -f "$(RUNS)/$(1)/metrics.json" ]; then echo --overwrite; else echo --resume; fi))
TRAIN = --store "$(TRAIN_STORE)" --val-store "$(VAL_STORE)" --pretrained "$(PRETRAINED)" $(RECIPE) $(TRAIN_ARGS)

ifneq ($(filter predict,$(MAKECMDGOALS)),)
ifeq ($(SOURCE),)
$(error give an image, a folder or a video: make predict SOURCE=photo.jpg)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo data sample teacher cache baseline distill evaluate report export card release predict web fiftyone has-images test \
	test-fast check docs notebook bench clean

help: ## list the targets and variables
	@echo "make TARGET [VARIABLE=value ...]"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo; echo "Variables (current value):"
	@echo "  DATA          sample, coco, or the path of a data folder ($(DATA))"
	@echo "  TEACHER       hrnet_w32, hrnet_w48_384x288, ..., onnx:FILE or hf:ORG/NAME ($(TEACHER))"
	@echo "  CHECKPOINT    weights of an HRNet teacher; if empty, mmpose's published weights are downloaded ($(CHECKPOINT))"
	@echo "  INPUT_SIZE    input size of the teacher, height x width ($(INPUT_SIZE))"
	@echo "  STORE, RUNS   folders for stores and for training runs ($(STORE), $(RUNS))"
	@echo "  FORMAT        layout of the stores, zarr or h5 ($(FORMAT))"
	@echo "  LABELLED      persons of the sample's training split that have labels ($(LABELLED))"
	@echo "  PRETRAINED    the student's ImageNet weights: auto, none, or a file ($(PRETRAINED))"
	@echo "  CACHE_ARGS    additional flags for python -m precompute ($(CACHE_ARGS))"
	@echo "  DATA_ARGS     additional flags for python -m precompute.fetch.coco ($(DATA_ARGS))"
	@echo "  SOURCE        image, folder or video for make predict; images for make web ($(SOURCE))"
	@echo "  RECIPE        flags of the training recipe, if it is not the default ($(RECIPE))"
	@echo "  IMAGES        folder of the validation images, for make fiftyone ($(IMAGES))"
	@echo "  FIFTYONE_ARGS additional flags for python -m train fiftyone, e.g. --port 5152 ($(FIFTYONE_ARGS))"
	@echo "  TRAIN_ARGS    additional flags for python -m train distill and baseline, e.g. --resume ($(TRAIN_ARGS))"
	@echo "  EXPORT_ARGS   additional flags for python -m train export ($(EXPORT_ARGS))"
	@echo "  CARD_ARGS     additional flags for python -m train card, e.g. --license mit ($(CARD_ARGS))"
	@echo "  RELEASE_ARGS  additional flags for python -m train release, e.g. --overwrite ($(RELEASE_ARGS))"
	@echo "  PREDICT_ARGS  additional flags for python -m train predict, e.g. --boxes FILE ($(PREDICT_ARGS))"
	@echo "  WEB_ARGS      additional flags for python -m train web, e.g. --port 8000 ($(WEB_ARGS))"
	@echo "  TORCH_INDEX   package index for torch, e.g. https://download.pytorch.org/whl/cpu ($(TORCH_INDEX))"

setup: $(READY) ## install the environment in .venv (with uv if present, else pip)

$(READY): pyproject.toml
	@if command -v uv >/dev/null; then \
		uv venv -q --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv && install="uv pip install -q --python $(PY)"; \
	else \
		$(PYTHON) -m venv .venv && install="$(PY) -m pip install -q --disable-pip-version-check"; \
	fi; \
	set -e; echo "installing into .venv (torch is large; this takes a few minutes)"; \
	$(if $(TORCH_INDEX),$$install --index-url $(TORCH_INDEX) torch torchvision;) \
	$$install -e '.[dev,teacher]'
	@touch $@

demo: override DATA := sample
demo: $(READY) ## run everything on the embedded sample and write a report (6 to 8 minutes on two cores)
	@$(PY) -m precompute.sample.demo --make "$(MAKE_COMMAND)" --runs "$(RUNS)"

sample: override DATA := sample
sample: $(READY) ## write the embedded sample, images and annotations, to data/sample
	$(PY) -m precompute.sample --out data/sample --few $(LABELLED)

teacher: $(READY) ## train the sample's HRNet teacher again and print its AP and PCK
	$(PY) -m precompute.sample.train_teacher --data data/teacher --out data/teacher/hrnet_w16_sample.safetensors

data: $(READY) ## fetch the data of DATA=sample or DATA=coco (20 GB; 1 GB with DATA_ARGS="--splits val"); continues a download
	$(GET_DATA)

cache: data ## run the teacher once and write the train and val stores
	$(PRECOMPUTE) --split $(TRAIN_SPLIT) --store "$(TRAIN_STORE)"
	$(PRECOMPUTE) --split val --store "$(VAL_STORE)"
	$(CACHE_NOTE)

baseline: $(READY) ## train the student on the labels alone
	$(PY) -m train baseline $(TRAIN) --out "$(RUNS)/baseline" $(call begin,baseline)

distill: $(READY) ## train the student on the store's teacher
	$(PY) -m train distill $(TRAIN) --out "$(RUNS)/distilled" $(call begin,distilled)

evaluate: $(READY) ## measure AP, AR and PCK of the store's teacher and of both students
	@$(PY) -m train evaluate --store "$(VAL_STORE)" --teacher --out "$(RUNS)/teacher.json"
	@for run in baseline distilled; do if [ -f "$(RUNS)/$$run/best.pt" ]; then \
		$(PY) -m train evaluate --store "$(VAL_STORE)" --student "$(RUNS)/$$run/best.pt" --out "$(RUNS)/$$run/evaluation.json" || exit 1; \
	fi; done

report: $(READY) ## write one HTML file that compares teacher, baseline and distilled student
	@$(PY) -m train report --store "$(VAL_STORE)" --runs "$(RUNS)/baseline" "$(RUNS)/distilled" --out "$(RUNS)/report.html"

export: $(READY) ## write the distilled student as an ONNX file and compare it with PyTorch (EXPORT_ARGS=--int8: also as int8)
	$(PY) -m train export --student "$(RUNS)/distilled/best.pt" --store "$(VAL_STORE)" --out "$(RUNS)/student.onnx" $(EXPORT_ARGS)

card: $(READY) ## write a model card of the distilled student, beside the exported file if there is one
	@set --; for store in "$(TRAIN_STORE)" "$(VAL_STORE)"; do if [ -e "$$store" ]; then set -- "$$@" "$$store"; fi; done; \
	if [ $$# -gt 0 ]; then set -- --store "$$@"; fi; \
	if [ -f "$(RUNS)/student.onnx" ]; then set -- --student "$(RUNS)/student.onnx" "$$@"; fi; \
	$(PY) -m train card "$(RUNS)/distilled" "$$@" $(CARD_ARGS)

release: $(READY) ## gather the distilled student, its card, ONNX, int8, report and manifests in one folder with checksums
	@set --; for store in "$(TRAIN_STORE)" "$(VAL_STORE)"; do if [ -e "$$store" ]; then set -- "$$@" "$$store"; fi; done; \
	if [ $$# -gt 0 ]; then set -- --store "$$@"; fi; \
	$(PY) -m train release "$(RUNS)/distilled" --out "$(RUNS)/release" "$$@" $(RELEASE_ARGS)

predict: $(READY) ## predict keypoints in SOURCE=image, folder or video with the exported student
	$(PY) -m train predict "$(SOURCE)" --student "$(RUNS)/student.onnx" --out "$(RUNS)/predictions" $(PREDICT_ARGS)

web: $(READY) ## serve a page that runs the exported student in the browser, on images of SOURCE=folder and the camera
	$(PY) -m train web "$(RUNS)/student.onnx" $(if $(or $(SOURCE),$(IMAGES)),--images "$(or $(SOURCE),$(IMAGES))") $(WEB_ARGS)

fiftyone: has-images $(READY) $(FIFTYONE_READY) ## show labels, teacher and students on the original images in FiftyOne's App (installs it and its database)
	@$(FIFTYONE_PY) -m train.show.gallery.database
	@set --; for run in baseline distilled; do if [ -f "$(RUNS)/$$run/best.pt" ]; then set -- "$$@" "$(RUNS)/$$run/best.pt"; fi; done; \
	$(PY) -m train fiftyone --store "$(VAL_STORE)" --images "$(IMAGES)" --teacher $${1:+--student} "$$@" \
		--out "$(RUNS)/fiftyone" --python $(FIFTYONE_PY) $(FIFTYONE_ARGS)

has-images:
	@test -n "$(IMAGES)" || { echo "error: no validation images in $(DATA_DIR); $(if $(filter sample,$(DATA)),run make sample or )give their folder with IMAGES=DIR" >&2; exit 1; }

$(FIFTYONE_READY):
	@echo "installing FiftyOne into .venv-fiftyone (1 GB; this takes a few minutes)"
	@$(PYTHON) -m venv .venv-fiftyone && $(FIFTYONE_PY) -m pip install -q --disable-pip-version-check 'fiftyone>=1.0'
	@touch $@

test: $(READY) ## run all tests
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(READY) ## run the tests without the slow ones
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

check: $(READY) ## run the linter, the format check, the type checker and the test of the import law
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@if [ -x .venv/bin/hadolint ]; then .venv/bin/hadolint Dockerfile Dockerfile.cuda; else echo "Dockerfiles not linted: hadolint is not available on this platform"; fi
	$(PY) -m pytest tests/repository/test_imports.py

docs: $(READY) ## build the documentation with the Python API as a site in site/; a warning is an error
	$(PY) -m sphinx -q -W --keep-going -b html docs site
	@echo "open $(CURDIR)/site/index.html"

notebook: $(READY) ## run the notebook in notebooks/ and store its outputs in it (6 minutes on two cores)
	$(PY) notebooks/execute.py
	@echo "open notebooks/knowledge-distillation-for-2d-hpe.ipynb"

bench: $(READY) ## run all benchmarks; JSON lines go to stdout and benchmarks/results/
	$(PY) -m benchmarks

clean: ## delete the sample, its stores and runs, the site and tool caches, but not the environment
	rm -rf data/sample stores/sample runs/sample site .mypy_cache .ruff_cache .pytest_cache
