"""Flags from TOML files mean the same as on the command line, which overrides them."""

import argparse
import json
from pathlib import Path

import pytest

from kdcli.config_file import ConfigError, parse
from kdcli.flags import Weighted
from precompute import __main__ as precompute
from tests.support import tiny_precompute, tiny_training
from tests.support.stores import people as people_store
from train import __main__ as train

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {
    "train": ["distill", "--store", "s", "--val-store", "v", "--out", "o"],
    "precompute": ["--teacher", "t", "--store", "s"],
}
PARSERS = {"train": train._parser, "precompute": precompute._parser}


def flags():
    """Every flag of the commands that accept a config file, from their parsers."""
    for room, make in PARSERS.items():
        parser = make()
        if room == "train":
            parser = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices["distill"]
        for action in parser._actions:
            if action.dest not in ("help", "config"):
                yield pytest.param(room, action, id=f"{room}{action.option_strings[0]}")


def samples(action):
    """A value other than the default: as words of a command line, and in TOML."""
    if action.nargs == 0:
        return [], "true"
    if action.choices:
        other = next(choice for choice in action.choices if choice != action.default)
        return [str(other)], json.dumps(other)
    if isinstance(action.default, list):
        return ["some=text"], '["some=text"]'
    for word, spelt in (("a b.c", '"a b.c"'), ("7", "7"), ("1/8", '"1/8"'), ("1/2,1/4,1/8", '"1/2,1/4,1/8"')):
        try:
            (action.type or str)(word)
        except (ValueError, argparse.ArgumentTypeError):
            continue
        return [word], spelt
    raise AssertionError(f"give a value for {action.option_strings}")


@pytest.mark.parametrize(("room", "action"), list(flags()))
def test_a_flag_means_the_same_typed_and_in_a_file(tmp_path, room, action):
    typed, spelt = samples(action)
    flag = next(option for option in action.option_strings if option.startswith("--"))
    file = tmp_path / "run.toml"
    file.write_text(f"{flag[2:]} = {spelt}\n")
    required = REQUIRED[room]
    if flag in required:
        required = [part for i, part in enumerate(required) if flag not in (part, required[i - 1])]
    by_flag = vars(parse(PARSERS[room](), [*required, flag, *typed]))
    by_file = vars(parse(PARSERS[room](), [*required, "--config", str(file)]))
    assert by_flag == {**by_file, "config": None}
    assert by_flag[action.dest] != action.default


def test_a_number_that_may_be_auto_is_either_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    for spelt, value in (('"auto"', "auto"), ("64", 64)):
        file.write_text(f"batch-size = {spelt}\n")
        arguments = [*REQUIRED["precompute"], "--config", str(file)]
        assert parse(precompute._parser(), arguments).batch_size == value
    for spelt in ('"large"', "0", "1.5"):
        file.write_text(f"batch-size = {spelt}\n")
        with pytest.raises(ConfigError, match=r"batch-size: a .*whole number or"):
            parse(precompute._parser(), arguments)


def test_a_flag_that_can_be_denied_is_false_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("flip-test = false\n")
    denied = vars(parse(precompute._parser(), [*REQUIRED["precompute"], "--no-flip-test"]))
    by_file = vars(parse(precompute._parser(), [*REQUIRED["precompute"], "--config", str(file)]))
    assert denied == by_file | {"config": None}
    assert denied["flip_test"] is False
    file.write_text("no-flip-test = true\n")
    with pytest.raises(ConfigError, match="no-flip-test"):
        parse(precompute._parser(), [*REQUIRED["precompute"], "--config", str(file)])


def test_what_is_typed_wins_wherever_it_stands(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('epochs = 3\nstore = "file"\nclip = 1\n')
    command = ["distill", "--val-store", "v", "--out", "o"]
    for typed in (["--epochs", "20", "--config", str(file)], ["--config", str(file), "--epochs=20"]):
        arguments = parse(train._parser(), [*command, *typed])
        assert (arguments.epochs, arguments.store, arguments.clip) == (20, [Weighted("file")], 1.0)
        assert type(arguments.clip) is float


def test_a_typed_list_replaces_the_files(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('teacher = "t"\nstore = "s"\nensemble = ["a=1", "b=2"]\n')
    assert parse(precompute._parser(), ["--config", str(file)]).ensemble == ["a=1", "b=2"]
    typed = ["--config", str(file), "--ensemble", "c=3", "--ensemble", "d=4"]
    assert parse(precompute._parser(), typed).ensemble == ["c=3", "d=4"]


def test_of_two_files_the_last_wins(tmp_path):
    (tmp_path / "one.toml").write_text("epochs = 3\nseed = 5\n")
    (tmp_path / "two.toml").write_text("epochs = 4\n")
    both = [part for name in ("one", "two") for part in ("--config", str(tmp_path / f"{name}.toml"))]
    arguments = parse(train._parser(), [*REQUIRED["train"], *both])
    assert (arguments.epochs, arguments.seed) == (4, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate = 1e-3", "no flag --learning_rate; did you mean learning-rate?"),
        ("epoch = 3", "no flag --epoch; did you mean epochs?"),
        ("xyzzy = 3", "no flag --xyzzy; it has accumulate, backbone-norm,"),
        ('config = "other.toml"', "config: a file cannot name another; repeat --config instead, the last file wins"),
        ("help = true", "no flag --help"),
        ("[recipe]\nepochs = 3", "[recipe] is a table; write flags at the top level of the file"),
        ('data = "data/coco"', "python -m train distill has no flag --data; it has accumulate,"),
        ("epochs = 3.0", "epochs: a whole number is needed, got 3.0"),
        ('epochs = "3"', 'epochs: a whole number is needed, got "3"'),
        ("epochs = true", "epochs: a whole number is needed, got true"),
        ("ema = true", "ema: a number is needed, got true"),
        ('compile = "yes"', 'compile: true or false is needed, got "yes"'),
        ("compile = 1", "compile: true or false is needed, got 1"),
        ("store = 3", "store: text in quotes is needed, got 3"),
        ("store = {}", "store: text in quotes is needed, got a table"),
        ('logits = "lgo"', 'logits: one of log, raw is needed, got "lgo"'),
        ("logits = 3", "logits: one of log, raw is needed, got 3"),
        ("threads = 0", "threads: a positive whole number is needed, got 0"),
        ("epochs 3", "is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 8)"),
        ("epochs = 3\nepochs = 4", "is not TOML: Cannot overwrite a value"),
    ],
)
def test_what_a_command_does_not_take_is_refused_in_one_line(tmp_path, capsys, line, message):
    file = tmp_path / "a run.toml"
    file.write_text(line + "\n")
    assert train.main([*REQUIRED["train"], "--config", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}")
    assert message in error
    assert error.count("\n") == 1


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_bytes(b"store = '\xff'")
    assert precompute.main(["--config", str(file)]) == 1
    assert f"error: {file} is not TOML: 'utf-8'" in capsys.readouterr().err
    assert precompute.main(["--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml cannot be read: No such file" in capsys.readouterr().err
    assert train.main([*REQUIRED["train"], "--config", str(tmp_path)]) == 1
    assert f"error: --config {tmp_path} cannot be read: Is a directory" in capsys.readouterr().err


def test_a_file_of_another_editor_and_a_path_at_home_are_taken(tmp_path, monkeypatch):
    """A byte order mark, as editors on Windows write it; `~`, which a shell would have expanded."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / "run.toml"
    file.write_bytes(b'\xef\xbb\xbfepochs = 3\nstore = "~/stores/train.zarr"\n')
    arguments = parse(
        train._parser(), [*REQUIRED["train"][:1], "--val-store", "v", "--out", "o", "--config", str(file)]
    )
    assert (arguments.epochs, arguments.store) == (3, [Weighted(str(tmp_path / "home/stores/train.zarr"))])


def test_stores_in_a_file_are_one_or_a_list_and_typed_ones_replace_them(tmp_path):
    one, several = tmp_path / "one.toml", tmp_path / "several.toml"
    one.write_text('store = "a.zarr"\n')
    several.write_text('store = ["a.zarr", "b.h5:0.5"]\n')

    def stores(*words):
        return parse(train._parser(), ["distill", "--val-store", "v", "--out", "o", *map(str, words)]).store

    assert stores("--config", one) == [Weighted("a.zarr")]
    assert stores("--config", several) == [Weighted("a.zarr"), Weighted("b.h5", 0.5)]
    assert stores("--config", several, "--config", one) == [Weighted("a.zarr")]
    assert stores("--config", one, "--config", several, "--store", "c:2") == [Weighted("c", 2.0)]
    several.write_text('store = ["a.zarr", 3]\n')
    with pytest.raises(ConfigError, match=r"several\.toml: store: text in quotes is needed, got 3"):
        stores("--config", several)
    several.write_text('store = ["a.zarr:0"]\n')
    with pytest.raises(ConfigError, match=r"several\.toml: store: the weight of a\.zarr must be above 0, got 0"):
        stores("--config", several)


def test_a_list_is_asked_for_where_a_flag_may_be_given_again(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('ensemble = "a=1"\n')
    with pytest.raises(ConfigError, match=r'ensemble: a list is needed, got "a=1"'):
        parse(precompute._parser(), [*REQUIRED["precompute"], "--config", str(file)])


def test_what_neither_file_nor_command_line_gives_is_missed_by_name(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('store = "s"\n')
    with pytest.raises(SystemExit) as stopped:
        parse(train._parser(), ["distill", "--config", str(file)])
    assert stopped.value.code == 2
    assert "the following arguments are required: --val-store, --out" in capsys.readouterr().err


def as_toml(command):
    """The TOML text for the flags of a command line."""
    numbers = {"--batch-size", "--epochs", "--threads", "--temperature"}
    pairs = zip(command[::2], command[1::2], strict=True)
    return "".join(f"{key[2:]} = {value if key in numbers else json.dumps(value)}\n" for key, value in pairs)


def test_a_run_resolves_to_the_same_configuration_by_flags_and_by_file(tmp_path):
    people_store.make_store(tmp_path / "train.zarr", 8)
    people_store.make_store(tmp_path / "val.h5", 4)
    by_flags, by_file = (
        tiny_training.command(tmp_path, tmp_path / n, epochs=1, temperature=2) for n in ("flags", "file")
    )
    assert train.main(by_flags) == 0
    file = tmp_path / "run.toml"
    file.write_text(as_toml(by_file[1:]))
    assert train.main(["distill", "--config", str(file)]) == 0
    assert (tmp_path / "file/config.json").read_bytes() == (tmp_path / "flags/config.json").read_bytes()
    assert tiny_training.same_weights(tmp_path / "file/last.pt", tmp_path / "flags/last.pt")


def test_a_store_by_file_is_the_store_by_flags(tmp_path, capsys):
    data = tiny_precompute.write(tmp_path / "data")
    command = tiny_precompute.command(data, tmp_path / "store.zarr")
    assert precompute.main(command) == 0
    file = tmp_path / "run.toml"
    file.write_text(as_toml(command) + "resume = true\n")
    capsys.readouterr()
    assert precompute.main(["--config", str(file)]) == 0  # --resume refuses a store that the command would not write
    assert "store.zarr" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_taken_by_a_command(path):
    room = "precompute" if "precompute" in path.read_text() else "train"
    missing = {"train": ["distill", "--out", "o"], "precompute": ["--store", "s"]}[room]
    arguments = parse(PARSERS[room](), [*missing, "--config", str(path)])
    if room == "train":
        from train.recipe import Recipe

        Recipe.from_arguments(arguments)  # checks the ranges of the values
