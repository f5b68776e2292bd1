"""`python -m precompute` with the shards of a large store, for runs of a few thousand instances.

A batch ends with its shard. A store of a few thousand instances has shards of 64, one of COCO's size has shards of
1,024. With small shards, a benchmark could not measure large batches.
"""

import cache.format.spec
from kdcli.flags import exit_with

SHARD = 512


def main(argv: list[str] | None = None) -> int:
    """Run the command with shards of `SHARD` instances."""
    cache.format.spec.default_shard_instances = lambda instances: SHARD
    from precompute.__main__ import main as precompute

    return precompute(argv)


if __name__ == "__main__":
    exit_with(main)
