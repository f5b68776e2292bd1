"""A student's checkpoint without training: seeded random weights whose maps are far from uniform."""

import dataclasses

import torch

from kdlib.students.networks import build_student
from train.recipe import Recipe
from train.run.folder import save_checkpoint
from train.supervision import supervision_of


def make_checkpoint(path, *, student="squeezenet1_1", head="fused", loss="kl", input_size=(48, 64)):
    """Write a checkpoint that `load_student` reads; input size is (width, height)."""
    width, height = input_size
    recipe = Recipe(student=student, head=head, loss=loss, input_size=f"{height}x{width}", pretrained="none")
    torch.manual_seed(0)
    model = build_student(student, head, 17, input_size)
    with torch.no_grad():
        for module in model.head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1.0)  # the branches of finer features in a fused head start at 0
        model.eval()
        model.head.final.weight.mul_(3 / model(torch.randn(2, 3, height, width)).std())  # maps far from uniform
    content = {
        "name": "distilled",
        "recipe": dataclasses.asdict(recipe),
        "supervision": dataclasses.asdict(supervision_of(recipe, input_size, 0.003, distil=True)),
        "input_size": recipe.input_size,
        "joints": 17,
        "model": model.state_dict(),
    }
    save_checkpoint(path, content)
    return path
