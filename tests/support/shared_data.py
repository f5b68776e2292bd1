"""Optional real data beside the repository; tests that need it are skipped without it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
PARITY = SHARED / "parity" / "hrnet_w32_256x192.npz"
COCO_REAL = SHARED / "data" / "coco_real"
ONNX_TEACHER = SHARED / "data" / "weights" / "ultralight_simplepose_256x192.onnx"
SQUEEZENET = SHARED / "data" / "weights" / "squeezenet1_1_imagenet_fp16.pth"

needs_parity = pytest.mark.skipif(
    not PARITY.exists(), reason="the official HRNet's outputs (../shared/parity) are missing"
)
needs_coco = pytest.mark.skipif(
    not (COCO_REAL.exists() and ONNX_TEACHER.exists()), reason="real photographs (../shared/data) are missing"
)
