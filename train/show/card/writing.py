"""Writes a card and the picture of its learning curves."""

import dataclasses
import os
from pathlib import Path
from typing import Final

from kdcli.files import replacing
from train.errors import TrainError, check_is_not_folder
from train.show.card.text import MARK, Card
from train.show.report.figures import learning_picture

CARD: Final = "card.md"
"""Name of a card in a run folder."""


def check_replaceable(out: Path) -> None:
    """Check that a card may be written to `out`.

    Raises:
        TrainError: If it is a folder, or a file that is not a card.
    """
    check_is_not_folder(out, CARD)
    if out.suffix != ".md":
        raise TrainError(
            f"--out {out}: a card is Markdown; give a name that ends in .md, e.g. {out.with_suffix('.md')}"
        )
    if out.exists() and MARK not in out.read_text(encoding="utf-8", errors="replace"):
        raise TrainError(f"{out} exists and is not a card that this command wrote; give another --out")


def write_card(card: Card, out: Path) -> None:
    """Write a card, and beside it the picture that it names, if the run recorded epochs; each file appears whole.

    Raises:
        TrainError: If a file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        drawing = learning_picture(card.run.history)
        if drawing is None:
            card = dataclasses.replace(card, picture=None)
        elif card.picture:
            with replacing(out.parent / card.picture) as temporary:
                temporary.write_text(drawing, encoding="utf-8")
        with replacing(out) as temporary:
            temporary.write_text(card.text(), encoding="utf-8")
    except OSError as error:
        raise TrainError(f"could not write {out}: {error.strerror}") from error


def relative(file: Path, folder: Path) -> str:
    """The path of a file from the folder of a card, with forward slashes."""
    return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
