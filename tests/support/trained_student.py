"""A student's checkpoint and a run folder without training: seeded random weights whose maps are far from uniform."""

import dataclasses
import json

import torch

from kdlib.samples.dataset import store_skeleton
from kdlib.skeletons.reading import stated
from kdlib.skeletons.skeleton import COCO
from kdlib.students.networks import build_student
from train.recipe import Recipe
from train.run.folder import save_checkpoint
from train.supervision import supervision_of


def make_checkpoint(
    path, *, student="squeezenet1_1", head="fused", loss="kl", input_size=(48, 64), seed=0, skeleton=COCO, **more
):
    """Write a checkpoint that `load_student` reads; input size is (width, height), and `more` are further entries."""
    width, height = input_size
    recipe = Recipe(student=student, head=head, loss=loss, input_size=f"{height}x{width}", pretrained="none")
    torch.manual_seed(seed)
    model = build_student(student, head, len(skeleton), input_size)
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
        "joints": len(skeleton),
        **stated(skeleton),
        "model": model.state_dict(),
    }
    save_checkpoint(path, content | more)
    return path


def make_run(folder, store, val_store, *, name="distilled", seed=0, manifests=True):
    """Write a finished run of three epochs on two opened stores, of which the second was the best."""
    folder.mkdir(parents=True)
    stores = {"store": store, "val_store": val_store}
    identities = {
        key: {"name": of.path.name, "content_sha256": of.manifest["content_sha256"]} for key, of in stores.items()
    }
    distil = name == "distilled"
    recipe = Recipe(input_size="64x48", pretrained="none", epochs=3, seed=seed)
    supervision = dataclasses.asdict(supervision_of(recipe, (48, 64), 0.003, distil=distil))
    more = {"name": name, "recipe": dataclasses.asdict(recipe), "supervision": supervision, "epoch": 2, **identities}
    skeleton = store_skeleton(val_store)
    make_checkpoint(folder / "best.pt", seed=seed, skeleton=skeleton, **more)
    config = {**more, "input_size": "64x48", "joints": len(skeleton)}
    if manifests:
        config["manifests"] = {key: dict(of.manifest) for key, of in stores.items()}
    (folder / "config.json").write_text(json.dumps(config))
    epochs = [{"epoch": n, "kd" if distil else "gt": 5.0 - n, "ap": ap} for n, ap in ((1, 3.0), (2, 21.25), (3, 20.0))]
    lines = [line | {"ap50": 2 * line["ap"], "pck@0.05": 30.0 + line["ap"], "pck@0.1": 60.0} for line in epochs]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {key: value for key, value in lines[1].items() if key not in ("epoch", "gt", "kd")}
    metrics |= {"ap75": None, "ar": 33.0, "pck@0.2": 80.0, "instances": 8, "decoder": "dark", "model": name}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "store": val_store.path.name}))
    return folder
