"""The pictures for TensorBoard: persons, joints and heatmaps in their places."""

import cv2
import numpy as np
import pytest
import torch

from kdlib.geometry import STRIDE
from kdlib.readout import Readout
from kdlib.skeletons.skeleton import COCO
from kdlib.students.loading import TorchStudent
from kdlib.students.networks import build_student
from tests.support.stores.people import INPUT_SIZE, make_store
from train.show.drawing import COLOURS
from train.show.tensorboard import GAP, MARGIN, ROWS, TILE_HEIGHT, Pictures

COUNT = 3
TILE_WIDTH = TILE_HEIGHT * INPUT_SIZE[0] // INPUT_SIZE[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("pictures") / "val.h5", 8)


@pytest.fixture(scope="module")
def pictures(store):
    return Pictures(store, INPUT_SIZE, count=COUNT)


class Constant(torch.nn.Module):
    """A network whose output is always the same."""

    joints = 17

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.nn.Parameter(maps)

    def forward(self, images):
        return self.maps.expand(len(images), -1, -1, -1)


def student_of(model):
    return TorchStudent(model, Readout("mse", 1.0), INPUT_SIZE, COCO)


def constant_student(maps):
    return student_of(Constant(maps))


def one_joint(k, x, y, stride=STRIDE):
    """Maps (1, 17, h, w) with one Gaussian, at (x, y) in heatmap pixels."""
    columns, rows = np.meshgrid(np.arange(INPUT_SIZE[0] // stride), np.arange(INPUT_SIZE[1] // stride))
    maps = torch.zeros(1, 17, *columns.shape)
    maps[0, k] = torch.from_numpy(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4.5)).float()
    return maps


def tile(grid, row, column):
    top, left = row * (TILE_HEIGHT + GAP), MARGIN + column * (TILE_WIDTH + GAP)
    return grid[top : top + TILE_HEIGHT, left : left + TILE_WIDTH]


def test_the_grid_has_a_row_for_each_kind_and_a_column_for_each_person(pictures):
    grid = pictures.draw(student_of(build_student("squeezenet1_1", "pyramid", 17, INPUT_SIZE)))
    assert grid.dtype == np.uint8
    assert grid.shape == (len(ROWS) * (TILE_HEIGHT + GAP), MARGIN + COUNT * (TILE_WIDTH + GAP), 3)


def test_only_the_students_rows_change_with_the_student(pictures):
    grids = [pictures.draw(constant_student(one_joint(0, x, 9))) for x in (5, 17)]
    same = [np.array_equal(*(tile(grid, row, 0) for grid in grids)) for row in range(len(ROWS))]
    assert same == [name != "student" for name in ROWS]


@pytest.mark.parametrize(("stride", "x", "y"), [(4, 16.0, 8.0), (8, 6.0, 9.0), (2, 20.0, 35.0)])
def test_a_joint_is_drawn_where_the_student_says_it_is_and_its_heat_lies_around_it(store, stride, x, y):
    joint = COCO.sides.index("left")
    pictures = Pictures(store, INPUT_SIZE, count=COUNT, stride=stride)
    grid = pictures.draw(constant_student(one_joint(joint, x, y, stride)))
    scale = TILE_HEIGHT / INPUT_SIZE[1]
    at = (np.array([x, y]) * stride + 0.5) * scale - 0.5
    column, row = at.round().astype(int)
    np.testing.assert_array_equal(tile(grid, ROWS.index("student"), 1)[row, column], COLOURS["left"])
    heat = tile(grid, len(ROWS) - 1, 1).astype(float)
    orange = heat[..., 0] - heat[..., 2]  # the frames are grey
    weights = np.where(orange > 20, orange, 0)
    centre = [(weights.sum(axis=axis) * np.arange(weights.shape[1 - axis])).sum() / weights.sum() for axis in (0, 1)]
    np.testing.assert_allclose(centre, at, atol=0.75)


@pytest.mark.parametrize("stride", [4, 8])
def test_the_labels_lie_on_the_persons_dots(store, stride):
    pictures = Pictures(store, INPUT_SIZE, count=COUNT, stride=stride)
    keypoints, labelled = pictures._labels
    grid = pictures.draw(constant_student(one_joint(0, 5, 5, stride)))
    found = 0
    for column in range(COUNT):
        grey = cv2.cvtColor(pictures._images[column].numpy(), cv2.COLOR_RGB2GRAY)
        for (x, y), seen in zip(keypoints[column] * stride, labelled[column], strict=True):
            if seen and 2 < x < INPUT_SIZE[0] - 3 and 2 < y < INPUT_SIZE[1] - 3:
                assert grey[round(y), round(x)] > 180
                found += 1
    assert found > 10
    assert grid.max() == 255


def test_drawing_leaves_the_student_in_evaluation_mode_and_needs_no_gradient(pictures):
    student = build_student("squeezenet1_1", "pyramid", 17, INPUT_SIZE).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    pictures.draw(student_of(student))
    assert not student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_tensorboard_shows_the_grid_as_it_was_drawn(pictures, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    grid = pictures.draw(constant_student(one_joint(0, 5, 5)))
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_image("val/people", grid, 7, dataformats="HWC")
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    (event,) = board.Images("val/people")
    assert event.step == 7
    shown = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown[..., ::-1], grid)
