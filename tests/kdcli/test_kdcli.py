"""What all commands share: their progress on a terminal and in a file, and their errors for wrong flags."""

import importlib
import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import tqdm.std

from kdcli.flags import Parser, Repeated, local_path, run_command, weighted
from kdcli.progress import LINES, show_count, show_progress
from kdcli.words import duration


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("kdcli.progress.time.monotonic", made)
    monkeypatch.setattr(tqdm.std, "time", made)
    return made


def work(clock, total, seconds_each, begun=0):
    """Report every number up to the total."""
    with show_progress("teacher", "instances", begun) as progress:
        for done in range(begun + 1, total + 1):
            clock.now += seconds_each
            progress(done, total)


def test_durations_are_read_as_people_say_them():
    texts = [duration(seconds) for seconds in (0.4, 59.6, 232, 3599.7, 7500, 90000)]
    assert texts == ["0 s", "1 min 00 s", "3 min 52 s", "1 h 00 min", "2 h 05 min", "25 h 00 min"]


@pytest.mark.parametrize(("total", "seconds_each"), [(40, 1.0), (1000, 1.0), (100_000, 0.5), (7, 3600.0)])
def test_a_pipe_gets_few_lines_however_long_it_takes(clock, capsys, total, seconds_each):
    work(clock, total, seconds_each)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= LINES + 2
    assert all(line.startswith("teacher: ") for line in lines)
    assert lines[-1].startswith(f"teacher: {total} instances in {duration(total * seconds_each)} (")


def test_the_first_line_comes_soon_and_says_how_long_it_will_take(clock, capsys):
    work(clock, 100_000, 0.5)
    assert capsys.readouterr().err.splitlines()[0] == "teacher: 20/100000 instances, 2.0/s, 13 h 53 min to go"


def test_quick_work_and_no_work_say_nothing(clock, capsys):
    work(clock, 95, 0.1)
    work(clock, 5, 0.1, begun=5)
    assert capsys.readouterr().err == ""


def test_what_an_earlier_run_did_counts_neither_for_the_rate_nor_for_the_time_left(clock, capsys):
    work(clock, 1000, 1.0, begun=900)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "teacher: 910/1000 instances, 1.0/s, 1 min 30 s to go"
    assert last == "teacher: 100 instances in 1 min 40 s (1.0/s)"


def test_work_that_fails_is_not_said_to_be_done(clock, capsys):
    def end(progress):
        progress(3, 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), show_progress("teacher", "instances") as progress:
        end(progress)
    assert capsys.readouterr().err == ""


def test_an_unknown_total_and_work_that_starts_again(clock, capsys):
    with show_progress("download", "MB", 50) as progress:
        for done in [51, 52, 1, 2, 3]:  # the file on the server has changed
            clock.now += 10
            progress(done, 0)
    *_, before, last = capsys.readouterr().err.splitlines()
    assert before == "download: 3 MB, 0.1/s"
    assert last == "download: 2 MB in 20 s (0.1/s)"


def test_of_works_that_follow_each_other_a_pipe_hears_only_of_the_long_ones(clock, capsys):
    for seconds_each in (1.0, 60.0):
        with show_progress("epoch 1/3", "steps", transient=True) as progress:
            for done in range(1, 101):
                clock.now += seconds_each
                progress(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1/3: 5/100 steps, 0.017/s, 1 h 35 min to go"
    assert len(lines) == LINES


def test_a_silent_one_says_nothing(clock, capsys):
    with show_progress("teacher", "instances", shown=False) as progress:
        clock.now += 100
        progress(1, 2)
    assert capsys.readouterr().err == ""


def test_counts_are_summed_over_threads_and_bytes_are_shown_as_megabytes(clock, capsys):
    with show_count("pull", "MB") as advance, ThreadPoolExecutor(4) as pool:
        list(pool.map(advance, [500_000] * 1000))
        clock.now += 20
        advance(1_000_000)
    assert capsys.readouterr().err.splitlines()[-1] == "pull: 501 MB in 20 s (25.1/s)"


def test_a_terminal_gets_a_bar_whose_time_left_is_that_of_the_rest(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    work(clock, 1000, 1.0, begun=900)
    states = re.findall(r"\| (\d+)/1000 \[[\d:]+<([\d:]+), +1.00 instances/s\]", terminal.getvalue())
    assert ("950", "00:50") in states
    assert states[-1] == ("1000", "00:00")
    work(clock, 5, 4.0)
    assert "5/5 [00:20<00:00,  0.25 instances/s]" in terminal.getvalue()  # not seconds per instance


def test_a_bar_of_an_unknown_total_promises_nothing(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with show_progress("download", "MB", transient=True) as progress:
        for done in (1, 2):
            clock.now += 4
            progress(done, 0)
    assert "download: 2 MB [00:08" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # the bar was removed


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (
            "train",
            "distill --tempature 2",
            "python -m train distill has no flag --tempature; did you mean --temperature?",
        ),
        ("train", "distil --store x", "python -m train has no command distil; did you mean distill?"),
        ("cache", "xyzzy", "python -m cache has no command xyzzy; it has convert, diff, info,"),
        ("train", "baseline --epoch=3", "python -m train baseline has no flag --epoch; did you mean --epochs?"),
        ("train", "baseline -epochs 3", "python -m train baseline has no flag -epochs; did you mean --epochs?"),
        ("train", "distill --Learning_Rate 1", "has no flag --Learning_Rate; did you mean --learning-rate?"),
        (
            "train",
            "report --temperature 2",
            "python -m train report has no flag --temperature; it has --help, --images,",
        ),
        ("train", "distill --store s --val-store v --out o --epochs x", "argument --epochs: invalid int value: 'x'"),
        (
            "train",
            "distill --store s --val-store v --out s3://b/run",
            "a path on this machine is needed, not a URL (s3:",
        ),
        (
            "train",
            "export --student s --out=hf://me:pw@b/s.onnx",
            "a path on this machine is needed, not a URL (hf://..",
        ),
        ("precompute.sample", "--out gs://b/data", "argument --out: a path on this machine is needed, not a URL"),
        (
            "train.show.gallery",
            "--galery g",
            "python -m train.show.gallery has no flag --galery; did you mean --gallery?",
        ),
        ("precompute", "--teachr t --store s", "python -m precompute has no flag --teachr; did you mean --teacher?"),
        ("precompute", "--store s", "python -m precompute: the following arguments are required: --teacher"),
        ("precompute.sample", "--ou d", "python -m precompute.sample has no flag --ou; did you mean --out?"),
        ("cache", "info s.zarr --jsn", "python -m cache info has no flag --jsn; did you mean --json?"),
        ("benchmarks", "--quik", "python -m benchmarks has no flag --quik; did you mean --quick?"),
    ],
)
def test_a_mistake_in_the_flags_ends_in_one_line_with_the_nearest_flag(capsys, module, words, message):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"{module}.__main__").main(words.split())
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "place", "weight"),
    [
        ("a.zarr", "a.zarr", 1),
        ("a.zarr:2", "a.zarr", 2),
        ("a.zarr:.25", "a.zarr", 0.25),
        ("a.zarr:1e-1", "a.zarr", 0.1),
        (r"C:\stores\a.zarr", r"C:\stores\a.zarr", 1),
        (r"C:\stores\a.zarr:2", r"C:\stores\a.zarr", 2),
        ("s3://bucket/a.zarr:2.5", "s3://bucket/a.zarr", 2.5),
        ("http://host:8000", "http://host:8000", 1),
        ("http://host:8000/a.zarr", "http://host:8000/a.zarr", 1),
        ("http://host:8000/a.zarr:3", "http://host:8000/a.zarr", 3),
        ("a:b", "a:b", 1),
        ("12", "12", 1),
        (":3", ":3", 1),
    ],
)
def test_only_a_number_after_the_last_colon_is_a_weight(text, place, weight):
    assert weighted(text) == (place, weight)


def test_an_existing_path_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").mkdir()
    assert weighted("a:2") == ("a:2", 1)
    assert weighted("a:2:3") == ("a:2", 3)


@pytest.mark.parametrize("number", ["0", "-1", "0.0", "-2.5e3"])
def test_a_weight_that_is_not_above_zero_is_a_usage_error(capsys, number):
    parser = Parser(prog="p")
    parser.add_argument("--store", type=weighted, action=Repeated)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--store", f"a.zarr:{number}"])
    assert stopped.value.code == 2
    text = f"error: p: argument --store: the weight of a.zarr must be above 0, got {number}; see --help\n"
    assert capsys.readouterr().err == text


def test_a_file_cannot_be_replaced_by_a_second_one_unnoticed(capsys):
    """Numbers and words may be given again, so that a script can append changes to a command."""
    parser = Parser(prog="p")
    parser.add_argument("--out", "-o", type=local_path)
    parser.add_argument("--boxes", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, nargs="+", action="extend")
    parser.add_argument("--images", type=Path, action=Repeated)
    parser.add_argument("--epochs", type=int)
    once, again = ["--epochs", "1", "--runs", "a", "b", "--images", "c"], ["--epochs=2", "--runs", "d", "--images", "e"]
    kept = parser.parse_args([*once, *again])
    assert (kept.epochs, kept.runs, kept.images) == (2, [*map(Path, "abd")], [*map(Path, "ce")])
    for words in ("--out a --out b", "--out=a -o b", "--boxes a --boxes b"):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(words.split())
        assert stopped.value.code == 2
        assert re.fullmatch(
            r"error: p: \S+ is given twice, but only one of the two could be used\n", capsys.readouterr().err
        )


def test_values_that_only_look_like_flags_are_left_to_argparse():
    parser = Parser()
    parser.add_argument("--shift", type=float)
    parser.add_argument("--title")
    parser.add_argument("rest", nargs="*")
    words = ["--shift", "-0.3", "--title", "-a title with spaces", "x", "--", "--no-flag"]
    assert vars(parser.parse_args(words)) == {
        "shift": -0.3,
        "title": "-a title with spaces",
        "rest": ["x", "--no-flag"],
    }


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (FileNotFoundError("no such file"), "error: no such file\n"),
        (KeyboardInterrupt(), "error: interrupted; run it again\n"),
    ],
)
def test_a_refusal_and_ctrl_c_end_in_one_line_and_exit_code_1(capsys, raised, line):
    def run():
        raise raised

    assert run_command(run, (OSError,), "interrupted; run it again") == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


@pytest.mark.parametrize("raised", [ValueError("a bug"), BrokenPipeError()])
def test_a_bug_and_a_closed_pipe_are_raised(capsys, raised):
    def run():
        raise raised

    with pytest.raises(type(raised)):
        run_command(run, (OSError,))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("returned", "code"), [(0, 0), (None, 0), (1, 1), (3, 3)])
def test_the_exit_code_of_a_command_is_passed_on(returned, code):
    assert run_command(lambda: returned, (OSError,)) == code


def test_a_full_gpu_is_one_line_wherever_it_fills(capsys):
    """For example while a teacher is loaded, beside another program; commands state more where they know the batch."""

    def run():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    assert run_command(run, (OSError,)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: too little free memory on the device (CUDA out of memory. Tried to allocate 2.00 GiB.)"
    )


def test_another_error_of_torch_is_raised():
    def run():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(run, (OSError,))
