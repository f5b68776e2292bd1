"""Joint angles of everyday poses.

Angles are in degrees. The rows of limbs are (left, right). Signs follow anatomy: positive flexion moves a limb forward,
positive abduction moves it away from the body's middle, positive twist turns it inwards, and positive angles bend elbow
and knee. Spine and neck are (forward bend, bend to the left, turn to the left).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Pose:
    """The angles of one figure in degrees.

    Attributes:
        name: the kind of pose, a key of `POSES`.
        spine: (3,) forward bend, bend to the left, turn to the left.
        neck: (3,) the same, for the head relative to the trunk.
        arms: (2, 4) left and right: flexion, abduction, inward twist, elbow.
        legs: (2, 4) left and right: flexion, abduction, inward twist, knee.
        recline: rotation of the whole body in the image plane, large for people who are lying.
    """

    name: str
    spine: Array
    neck: Array
    arms: Array
    legs: Array
    recline: float = 0.0


def _limbs(rng: np.random.Generator, mean: list[float], spread: list[float]) -> Array:
    """Draw the angles of two limbs independently around one mean, (2, 4)."""
    return rng.normal(mean, spread, (2, 4))


def _hanging_arms(rng: np.random.Generator) -> Array:
    return _limbs(rng, [2, 10, 15, 22], [10, 6, 20, 14])


def _trunk(rng: np.random.Generator, bend: float = 3.0, spread: float = 5.0) -> Array:
    return rng.normal([bend, 0, 0], [spread, 5, 8])


def _stand(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    legs = _limbs(rng, [2, 5, -5, 5], [5, 4, 10, 5])
    if rng.random() < 0.3:  # weight on one leg, the other knee bent
        legs[0] += [14, 4, -8, 24]
    return _trunk(rng), _hanging_arms(rng), legs


def _hands_on_hips(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    spine, arms, legs = _stand(rng)
    akimbo = rng.normal([-20, 45, 62, 95], [6, 6, 8, 8], (2, 4))
    arms = np.where(rng.random((2, 1)) < 0.8, akimbo, arms)
    return spine, arms, legs


def _busy_hands(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Standing with the hands in front of the body: holding something, eating, or using a telephone."""
    spine, arms, legs = _stand(rng)
    busy = _limbs(rng, [28, 14, 25, 95], [18, 10, 22, 24])
    return spine, np.where(rng.random((2, 1)) < 0.75, busy, arms), legs


def _arms_raised(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    spine, arms, legs = _stand(rng)
    forward = _limbs(rng, [140, 12, 0, 25], [28, 12, 20, 22])
    sideways = _limbs(rng, [5, 105, -60, 45], [10, 30, 40, 35])
    raised = forward if rng.random() < 0.45 else sideways
    which = rng.random((2, 1)) < 0.7
    which[0] |= ~which.any()
    return spine, np.where(which, raised, arms), legs


def _stride(rng: np.random.Generator, swing: float, knee: float) -> tuple[Array, Array]:
    """Arms and legs that swing in opposition, at a random phase of a step."""
    phase = rng.uniform(0, 2 * np.pi)
    phase_sines = np.array([np.sin(phase), -np.sin(phase)])
    lift = np.clip([np.cos(phase), -np.cos(phase)], 0, 1)  # the knee bends while the leg swings forward
    arms, legs = _hanging_arms(rng), _limbs(rng, [4, 3, -2, 6], [3, 2, 6, 3])
    arms[:, 0] -= phase_sines * swing * rng.uniform(0.7, 1.2)
    legs[:, 0] += phase_sines * swing + lift * knee * 0.35
    legs[:, 3] += lift * knee + np.clip(-phase_sines, 0, 1) * knee * 0.25
    return arms, legs


def _walk(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    return _trunk(rng), *_stride(rng, rng.uniform(18, 32), rng.uniform(30, 55))


def _run(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    arms, legs = _stride(rng, rng.uniform(35, 55), rng.uniform(75, 110))
    arms[:, 3] = rng.normal(92, 12, 2)
    return _trunk(rng, bend=14.0), arms, legs


def _sit(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    legs = _limbs(rng, [84, 9, 0, 84], [8, 7, 6, 14])
    legs[:, 0], legs[:, 3] = legs[:, 0].mean() + rng.normal(0, 3, 2), legs[:, 3].mean() + rng.normal(0, 8, 2)
    arms = _limbs(rng, [35, 8, 20, 55], [14, 8, 18, 24])
    return _trunk(rng, bend=4.0, spread=10.0), arms, legs


def _bend(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    legs = _limbs(rng, [32, 6, 0, 22], [10, 4, 6, 14])
    arms = _limbs(rng, [68, 6, 5, 18], [20, 8, 15, 14])
    return rng.normal([58, 0, 0], [16, 6, 10]), arms, legs


def _squat(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    legs = _limbs(rng, [95, 16, -12, 108], [12, 8, 8, 12])
    return _trunk(rng, bend=22.0, spread=8.0), _limbs(rng, [55, 10, 15, 45], [20, 10, 20, 30]), legs


def _lunge(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    legs = rng.normal([[58, 6, -4, 58], [-18, 6, -4, 28]], [12, 4, 4, 12])
    return _trunk(rng, bend=10.0, spread=8.0), _limbs(rng, [20, 30, 0, 45], [40, 25, 25, 30]), legs


def _free(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Random postures of a standing person: dancing, throwing, kicking."""
    arms = rng.uniform([-40, -5, -40, 0], [170, 110, 60, 130], (2, 4))
    legs = rng.uniform([-25, -2, -25, 0], [75, 40, 15, 80], (2, 4))
    return rng.normal([8, 0, 0], [16, 12, 16]), arms, legs


_Draw = Callable[[np.random.Generator], tuple[Array, Array, Array]]

POSES: dict[str, tuple[float, _Draw]] = {
    "stand": (0.17, _stand),
    "hands on hips": (0.06, _hands_on_hips),
    "busy hands": (0.13, _busy_hands),
    "arms raised": (0.12, _arms_raised),
    "walk": (0.14, _walk),
    "run": (0.10, _run),
    "sit": (0.11, _sit),
    "bend": (0.05, _bend),
    "squat": (0.03, _squat),
    "lunge": (0.04, _lunge),
    "free": (0.05, _free),
}
"""Kind of pose -> (share, function that draws spine, arms and legs). Shares are normalised."""

_ELBOW_RANGE, _KNEE_RANGE = (2.0, 145.0), (0.0, 140.0)


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose of a random kind; left and right are exchanged in half of the poses."""
    names = list(POSES)
    shares = np.array([POSES[name][0] for name in names])
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    spine, arms, legs = POSES[name][1](rng)
    neck = rng.normal(0, [10, 6, 20])
    arms[:, 3] = np.clip(arms[:, 3], *_ELBOW_RANGE)
    legs[:, 3] = np.clip(legs[:, 3], *_KNEE_RANGE)
    if rng.random() < 0.5:
        arms, legs = arms[::-1], legs[::-1]
    recline = float(rng.choice([-1, 1]) * rng.uniform(60, 110)) if rng.random() < 0.03 else float(rng.normal(0, 4))
    return Pose(name, spine, neck, arms, legs, recline)
