"""200 mutated stores give a `StoreError` or correct data; `tests.support.stores.attack` runs any number of them."""

import pytest

pytest.importorskip("hypothesis", reason="the extra [dev] is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stores import attack as attack_store
from tests.support.stores import forged
from tests.support.stores.hdf5_mutations import lookup3, sealed_blocks
from tests.support.stores.oracle import Examiner, contents, examine


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return attack_store.make_pristine(tmp_path_factory.mktemp("pristine"))


@pytest.fixture(scope="module")
def examiner(pristine):
    process = Examiner(pristine)
    yield process
    process.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work") / "store"


KINDS = [(form, kind) for form, kinds in attack_store.KINDS.items() for kind in kinds]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(mutation=st.sampled_from(KINDS), seed=st.integers(0, 2**32))
def test_a_mutated_store_is_refused_or_right(examiner, pristine, folder, mutation, seed):
    attack_store.attack(examiner, pristine, folder, *mutation, seed)


def test_the_oracle_sees_what_is_not_refused(pristine, tmp_path):
    """A store with other maps that is read without an error is a finding: the test above can fail."""
    path = tmp_path / "s.zarr"
    forged.forge(path, record=lambda encoded: encoded._replace(stored=encoded.stored * 0))
    with pytest.raises(AssertionError, match="are not what was stored"):
        examine(path, contents(pristine / "s.zarr"))


def test_a_process_that_dies_is_a_finding(examiner, pristine):
    examiner._process.kill()
    with pytest.raises(AssertionError, match="the process died: exit code -9"):
        examiner.examine(pristine / "s.zarr")
    assert examiner.examine(pristine / "s.zarr") == "same"


def test_metadata_can_be_sealed(pristine):
    """The checksum that the mutations recompute is the one that HDF5 writes."""
    blocks = sealed_blocks((pristine / "s.h5").read_bytes())
    assert len(blocks) > 30
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # the author's check value
