"""The package itself: a light import, and the parts that it offers by attribute."""

import subprocess
import sys
from pathlib import Path

import pytest

import kdlib

ROOT = Path(__file__).resolve().parents[2]


def run(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_does_not_import_torch():
    assert run("import sys, kdlib; print('torch' in sys.modules, 'numpy' in sys.modules)") == ["False", "False"]


def test_every_part_is_an_attribute_and_has_its_public_names():
    program = "import kdlib\nfor part in kdlib.PARTS: print(getattr(kdlib, part).__name__)"
    assert run(program) == [f"kdlib.{part}" for part in kdlib.PARTS]
    assert set(kdlib.PARTS) <= set(dir(kdlib))
    for part in ("metrics", "samples", "students"):
        module = getattr(kdlib, part)
        assert all(hasattr(module, name) for name in module.__all__)


def test_an_unknown_part_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kdlib' has no attribute 'sample'"):
        kdlib.sample  # noqa: B018
