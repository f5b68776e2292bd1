"""What a run records about its stores, and how it is read again.

The entry ``store`` of a run's configuration, and of the manifests beside it, describes the training store. Of several
training stores, or of one with a weight other than 1, it is a list.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cache import Store
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.mixture import MixedDataset, Part

VAL_STORE: Final = "val_store"


def identity(store: Store) -> dict[str, Any]:
    """What identifies a store in a configuration: its name, for people, and the hash of its content."""
    return {"name": store.path.name, "content_sha256": store.manifest["content_sha256"]}


def identities(dataset: StoreDataset | MixedDataset) -> dict[str, Any] | list[dict[str, Any]]:
    """What identifies the training stores; of several also their weights, and the number of persons that are used."""
    if isinstance(dataset, StoreDataset):
        return identity(dataset.store)
    return [
        {**identity(part.store), "weight": float(part.weight), "instances": len(of.rows)}
        for part, of in zip(dataset.parts, dataset.datasets, strict=True)
    ]


def manifests(parts: Sequence[Part]) -> Any:
    """The manifests of the training stores, in the form of `identities`."""
    found = [dict(part.store.manifest) for part in parts]
    return found[0] if _is_plain(parts) else found


def _is_plain(parts: Sequence[Part]) -> bool:
    return len(parts) == 1 and parts[0].weight == 1


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The stores in a configuration, or the manifests in ``config.json``, by name.

    Returns:
        The entries ``store``, or ``store_1``, ``store_2`` and so on if there are several, and ``val_store``. An entry
        that the run did not record is None.
    """
    store = config.get("store")
    several = {f"store_{number}": of for number, of in enumerate(store, 1)} if isinstance(store, list) else None
    return {**({"store": store} if several is None else several), VAL_STORE: config.get(VAL_STORE)}


def training(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The identities of the training stores in a configuration, each with its weight; empty if none was recorded."""
    found = [of for name, of in recorded(config).items() if name != VAL_STORE and of]
    return [{**of, "weight": of.get("weight", 1.0)} for of in found]


def argument(of: Mapping[str, Any]) -> str:
    """The value of ``--store`` for an identity: its name, and its weight unless it is 1."""
    return str(of["name"]) + weight_suffix(of)


def weight_suffix(of: Mapping[str, Any]) -> str:
    """``:3`` for an identity with the weight 3, and nothing for the weight 1."""
    return "" if of["weight"] == 1 else f":{of['weight']:g}"
