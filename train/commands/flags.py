"""What several commands of `python -m train` take."""

import argparse
from typing import Final

DEVICE: Final = "auto, cpu, cuda or cuda:N (default: auto)"


def positive(text: str) -> int:
    """A positive whole number, as argparse wants its types."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, got {text}")
    return number
