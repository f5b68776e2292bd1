"""Videos are read frame by frame, upright, and every frame rate can be written."""

import math

import cv2
import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.inputs.videos import DEFAULT_RATE, Video, writable_rate

QUARTER_TURN = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
"""The matrix of a track that players turn clockwise by 90 degrees (ISO/IEC 14496-12)."""


def write_video(path, rate=25.0, frames=3, size=(64, 48), code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, size)
    opened = writer.isOpened()
    for i in range(frames):
        image = np.full((size[1], size[0], 3), 40 + 50 * i, np.uint8)
        image[: size[1] // 2] = 0
        writer.write(image)
    writer.release()
    return opened


RATES = [
    66.667,
    196.263,
    211.222,
    29.97,
    23.976,
    59.94,
    1000,
    655.35,
    655.36,
    65.5354,
    65.536,
    7000.5,
    65535,
    1e6,
    1e-9,
]


@pytest.mark.parametrize("rate", RATES)
def test_a_video_of_any_rate_can_be_written(rate, tmp_path):
    """The rate that is written is the video's, as closely as the format allows."""
    path, rounded = tmp_path / "a.mp4", writable_rate(rate)
    assert write_video(path, rounded)
    with Video(path) as video:
        assert video.frames == 3
        assert video.rate == pytest.approx(rounded, rel=1e-3)
        assert len(list(video)) == 3
    if 0.01 <= rate <= 65535:
        assert rounded == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, -math.inf])
def test_a_rate_that_is_none_becomes_the_default(rate):
    assert writable_rate(rate) == DEFAULT_RATE


def test_a_video_with_a_turn_in_its_metadata_comes_upright(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, size=(64, 48))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # behind version, times, id, duration, layer, group and volume
    assert int.from_bytes(content[at : at + 4], "big") == 1 << 16
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in QUARTER_TURN)
    path.write_bytes(content)
    with Video(path) as video:
        frame = next(iter(video))
    assert frame.shape == (64, 48, 3)
    assert frame[:, :20].mean() > 30  # the bright lower half is at the left
    assert frame[:, 28:].mean() < 10


def test_a_truncated_video_gives_the_frames_before_the_cut(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, frames=4, code="MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xff\xd8") + 20])
    with Video(path) as video:
        assert len(list(video)) == 3


@pytest.mark.parametrize("content", [b"", b"hello", b"\0\0\0\x18ftypisom" + bytes(100)])
@pytest.mark.parametrize("name", ["a.mp4", "clip0001.txt", "b"])
def test_what_is_no_video_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="is neither an image nor a video that OpenCV can read"):
        Video(tmp_path / name)
