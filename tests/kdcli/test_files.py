"""Files that are written whole: complete under their own name, or absent."""

import pytest

from kdcli.files import TEMPORARY_FILES, replacing


def write_and_fail(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_file_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "model.onnx"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == path.suffix
        assert list(tmp_path.glob(TEMPORARY_FILES)) == [temporary]
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", ["old", None])
def test_a_failure_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(path)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ([before] if before else [])


def test_a_block_that_writes_nothing_fails(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []
