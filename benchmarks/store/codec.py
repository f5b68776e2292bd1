"""Size of encoded heatmaps over float32, and the error of the logits: `python -m benchmarks.store.codec`.

codec.bytes   bytes per instance and view, peaks included, over float32
codec.kl      KL(exact || stored) in nats between the spatial softmax of log logits at T = 1 and 4, mean over the maps;
              `worst` is the maximum; no peer

The heatmaps are those of the embedded sample's HRNet and, if ../shared/data exists, of a network trained on COCO.
The default codec comes first. KL is computed in float64 from the decoded maps; the encoder's own value is not used.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cache
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.workspace import ROOT, Precompute, Workspace
from cache.codec.divergence import log_divergence
from cache.format import compress
from precompute.data.crops import stack_crops
from precompute.teacher.loading import Teacher, load_teacher

CODECS = ("root4", "root4:63", "float16", "float16-cut")
COMPRESSORS: dict[str, Callable[[NDArray[Any]], bytes]] = {
    "zarr": compress.zstd_compress,
    "hdf5": compress.deflate_compress,
}
TEMPERATURES = (1, 4)
INSTANCES = 64
BATCH = 16
SAMPLE_WEIGHTS = ROOT / "precompute" / "sample" / "hrnet_w16_sample.safetensors"


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of every source and codec."""
    for source in workspace.sources:
        teacher = bench_teacher(workspace, source)
        maps = teacher_maps(workspace, source, teacher)
        for name in CODECS:
            extra = {"source": source, "teacher": teacher.name, "maps": list(maps.shape[1:]), "codec": name}
            yield from _lines(maps, cache.codec_from_name(name), extra)


def bench_teacher(workspace: Workspace, source: str) -> Teacher:
    """Load the teacher trained for a source: the sample's HRNet, or the ONNX network for ``coco``."""
    if source == "coco":
        return load_teacher(f"onnx:{workspace.onnx_teacher}")
    return load_teacher("hrnet_w16_sample", SAMPLE_WEIGHTS, input_size=(96, 128), precision="fp32")


def teacher_maps(workspace: Workspace, source: str, teacher: Teacher) -> NDArray[np.float32]:
    """Return the teacher's heatmaps (N, K, H, W) of view 0 of the first instances of a source."""
    count = min(INSTANCES, workspace.effort.instances)
    cropper = Precompute.plan(workspace.people(source, count), teacher).job.cropper
    instances = [instance for row in range(len(cropper.instances)) for instance in cropper.prepare([row])]
    crops = stack_crops(instances)[teacher.input_size][:, 0]
    return np.concatenate([teacher(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)])


def _lines(maps: NDArray[np.float32], codec: cache.Codec, extra: dict[str, Any]) -> Iterator[Line]:
    encoded = codec.encode(maps)
    peaks = encoded.peak[0].nbytes
    for backend, compress_codes in COMPRESSORS.items():
        mean = np.mean([len(compress_codes(view)) for view in encoded.stored]) + peaks
        exact = maps[0].nbytes
        yield Line("codec", "bytes", mean, "B", len(maps), "float32", exact, {**extra, "backend": backend})
    decoded = codec.decode(encoded.stored, encoded.peak)
    for temperature in TEMPERATURES:
        nats = log_divergence(maps, decoded, codec.floor, temperature)
        nats = nats[np.isfinite(nats)]  # a map without a value above the floor has no distribution
        more = {**extra, "logits": "log", "temperature": temperature, "worst": float(f"{nats.max():.6g}")}
        yield Line("codec", "kl", float(nats.mean()), "nats", nats.size, extra=more)


if __name__ == "__main__":
    run_alone(run, __doc__)
