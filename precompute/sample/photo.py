"""Simulates lens, sensor and JPEG file for a drawn scene."""

import cv2
import numpy as np

Array = np.ndarray

GREY_SHARE = 0.05
"""Share of images that are greyscale, with a single channel as in COCO."""


def photograph(rng: np.random.Generator, colour: Array) -> Array:
    """Photograph a scene (H, W, 3) float32 RGB; returns (H, W, 3) uint8 BGR, or (H, W) uint8 for greyscale."""
    image = _expose(rng, _blur(rng, colour))
    image = image + _noise(rng, image.shape)
    image = np.clip(image, 0, 255)
    if rng.random() < GREY_SHARE:
        return np.round(image @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    return np.ascontiguousarray(np.round(image[..., ::-1]).astype(np.uint8))


def encode(rng: np.random.Generator, photo: Array) -> bytes:
    """Encode a photograph as JPEG with a random quality."""
    quality = int(rng.integers(45, 96))
    done, data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a JPEG of shape {photo.shape}")
    return data.tobytes()


def _blur(rng: np.random.Generator, image: Array) -> Array:
    """Blur as a lens; sometimes add defocus or camera shake."""
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.35, 0.9)))
    kind = rng.random()
    if kind < 0.12:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 1.8)))
    if kind < 0.2:
        length, angle = rng.integers(3, 8), rng.uniform(0, np.pi)
        kernel = np.zeros((9, 9), np.float32)
        reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        start, end = np.round(4 - reach).astype(int).tolist(), np.round(4 + reach).astype(int).tolist()
        cv2.line(kernel, start, end, 1.0)
        return cv2.filter2D(image, -1, kernel / kernel.sum())
    return image


def _expose(rng: np.random.Generator, image: Array) -> Array:
    """Change contrast, brightness, colour cast and gamma."""
    gain = np.clip(rng.normal(1.0, 0.12), 0.6, 1.4) * rng.normal(1.0, 0.05, 3)
    cast = (128 + (image - 128) * gain.astype(np.float32) + np.float32(rng.normal(0, 12))).astype(np.float32)
    gamma = float(np.exp(rng.normal(0, 0.15)))
    return np.float32(255) * cv2.pow(np.clip(cast, 0, 255) / np.float32(255), gamma)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw sensor noise with a random strength, float32."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.choice([0, 2, 4, 9], p=[0.2, 0.4, 0.3, 0.1]))
