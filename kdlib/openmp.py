"""How OpenMP's threads wait. Must be asked for before torch is imported, so nothing is imported here."""

import os


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spin, unless the user chose otherwise.

    Torch's CPU kernels share the cores with our own threads that read, warp and encode. GNU OpenMP spins while it waits
    for work and takes the cores away from them: on 2 busy cores the precompute run took 2.7 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
