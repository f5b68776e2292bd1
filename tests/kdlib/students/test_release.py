"""Release folders: which file is chosen, and what is refused in one line."""

import hashlib
import subprocess

import pytest

from kdlib.errors import KdlibError
from kdlib.students import load_student
from kdlib.students.loading import load_checkpoint
from kdlib.students.release import CHECKPOINT, CHECKSUMS, EXPORTED, student_file
from tests.support.trained_student import make_checkpoint


def seal(folder):
    """Write the checksums with coreutils, as a user may."""
    names = sorted(file.name for file in folder.iterdir() if file.name != CHECKSUMS)
    sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / CHECKSUMS).write_text(sums)


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "my release"
    folder.mkdir()
    make_checkpoint(folder / CHECKPOINT)
    (folder / EXPORTED).write_bytes(b"an exported student")
    seal(folder)
    return folder


def test_a_release_gives_its_checkpoint_or_the_file_that_is_asked_for(release):
    assert student_file(release) == release / CHECKPOINT
    assert student_file(str(release), EXPORTED) == release / EXPORTED
    assert student_file(release / EXPORTED) == release / EXPORTED
    assert student_file("nothing/here.onnx").name == "here.onnx"
    student, wanted = load_student(release), load_checkpoint(release / CHECKPOINT)
    assert all((student.model.state_dict()[k] == v).all() for k, v in wanted.model.state_dict().items())


def test_files_that_the_checksums_do_not_list_are_ignored_and_both_modes_of_the_line_are_read(release):
    (release / ".gitattributes").write_text("*.onnx filter=lfs\n")
    (release / CHECKSUMS).write_text((release / CHECKSUMS).read_text().replace("  ", " *").replace("\n", "\r\n"))
    assert student_file(release) == release / CHECKPOINT


def change(release):
    (release / EXPORTED).write_bytes(b"an exported Student")
    return r"student\.onnx does not match its checksum in SHA256SUMS \(sha256 .{12}, expected .{12}\)"


def lose_a_file(release):
    (release / EXPORTED).unlink()
    return r"is not complete: student\.onnx is missing"


def lose_the_checksums(release):
    (release / CHECKSUMS).unlink()
    return "is not a complete release: it has no SHA256SUMS"


def cut_the_checksums(release):
    (release / CHECKSUMS).write_text((release / CHECKSUMS).read_text()[:-30])
    return r"student\.pt is missing|SHA256SUMS is damaged"


def empty_the_checksums(release):
    (release / CHECKSUMS).write_text("")
    return "SHA256SUMS is damaged"


def climb_out(release):
    digest = hashlib.sha256(b"x").hexdigest()
    (release.parent / "x").write_bytes(b"x")
    (release / CHECKSUMS).write_text(f"{digest}  ../x\n")
    return "SHA256SUMS is damaged"


def be_another_folder(release):
    for file in release.iterdir():
        file.unlink()
    return "is a folder; a run's student is .*best.pt"


@pytest.mark.parametrize(
    "spoil",
    [change, lose_a_file, lose_the_checksums, cut_the_checksums, empty_the_checksums, climb_out, be_another_folder],
)
@pytest.mark.parametrize("name", [CHECKPOINT, EXPORTED])
def test_a_changed_or_incomplete_release_is_refused_in_one_line(release, spoil, name):
    message = spoil(release)
    with pytest.raises(KdlibError, match=message) as caught:
        student_file(release, name)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_release_was_made_without_is_named_with_those_it_has(release):
    (release / EXPORTED).unlink()
    seal(release)
    with pytest.raises(KdlibError, match=r"has no student\.onnx: it was made without it; it has student\.pt$"):
        student_file(release, EXPORTED)
