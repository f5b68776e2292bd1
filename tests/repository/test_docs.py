"""Tests of the documentation: commands parse, quoted messages exist, links resolve, the quickstart runs."""

import argparse
import ast
import importlib
import itertools
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from kdcli.config_file import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])
ROOMS = ("kdlib", "cache", "kdcli", "precompute", "train")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(text, *languages):
    """Return the contents of the fenced blocks in these languages."""
    return [body for language, body in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if language in languages]


def quoted_lines(path):
    """Return the command lines of a page, joined at backslashes; commands in running text get a final `...`."""
    text = path.read_text()
    if path.suffix == ".toml":
        shell = ["\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))]
    else:
        typed = re.findall(r"^\$ (.*)$", "\n".join(blocks(text, "console")), re.MULTILINE)
        indented = re.findall(r"^    .*$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
        shell = [*blocks(text, "bash"), "\n".join(typed), "\n".join(indented)]
        shell += [f"{part} ..." for part in re.findall(r"`((?:python -m|make|torchrun) [^`]+)`", text)]
    return [line.strip() for block in shell for line in re.sub(r"\\\n", " ", block).splitlines()]


def commands(path):
    """Yield the words of every command of this project that a page quotes."""
    variables = dict(re.findall(r'^(\w+)="([^"]*)"', path.read_text().replace("\\\n", " "), re.MULTILINE))
    yield from commands_of(quoted_lines(path), variables)


def commands_of(lines, variables):
    """Yield the words of every command of this project, from `make` or from the module name on."""
    for line in lines:
        expanded = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        if not re.search(r"\bmake |-m ", expanded):
            continue
        lexer = shlex.shlex(expanded, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_word, words in itertools.groupby(lexer, lambda word: not set(word) <= set("();<>|&")):
            if is_word:
                yield from command(list(words))


def command(words):
    """Yield the part of a simple command that belongs to this project: nothing for `python -m pip`."""
    for before, word in itertools.pairwise(["", *words]):
        rest = words[words.index(word) :]
        if word == "make":
            yield "make", rest[1:]
            return
        place = ROOT / word.replace(".", "/")
        if before == "-m" and (place.with_suffix(".py").exists() or (place / "__main__.py").exists()):
            yield "python", rest
            return


def quoted_commands(program):
    """Return each command once, with the page that quotes it."""
    pages = [*PAGES, *sorted((ROOT / "configs").glob("*.toml"))]
    found = {shlex.join(words): name_of(page) for page in pages for kind, words in commands(page) if kind == program}
    return [pytest.param(line, id=f"{page}: {line}") for line, page in sorted(found.items())]


def descriptions(parser):
    """Yield (command, description) of a parser and of its subparsers."""
    yield parser.prog, parser.description
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from descriptions(below)


def examples(description):
    """Return the commands that a description shows."""
    shown = re.findall(r"^    .*$", re.sub(r"\\\n", " ", description), re.MULTILINE)
    return [shlex.join(words) for _, words in commands_of(shown, {})]


def commands_in_help():
    """Yield the commands that `--help` of every command shows."""
    for room in ("cache", "precompute", "train"):
        for prog, description in descriptions(importlib.import_module(f"{room}.__main__")._parser()):
            yield from (pytest.param(line, id=f"{prog} --help: {line}") for line in examples(description))


class ParsedError(Exception):
    """Raised instead of running a command, once its command line was parsed."""


def relax(parser):
    """Make all arguments optional, because `...` in a command stands for omitted ones."""
    for group in parser._mutually_exclusive_groups:
        group.required = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            action.required = False
            for sub in action.choices.values():
                relax(sub)
        elif action.option_strings:
            action.required = False
        else:
            action.nargs = action.nargs or "?"


@pytest.mark.parametrize("line", [*quoted_commands("python"), *commands_in_help()])
def test_a_quoted_command_is_taken_by_the_real_parser(line, monkeypatch):
    module, *words = shlex.split(line)
    real = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, argv=None, namespace=None):
        if "..." in words:
            relax(self)
        real(self, [word for word in words if word != "..."], namespace)
        raise ParsedError

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    package = (ROOT / module.replace(".", "/")).is_dir()
    found = importlib.import_module(f"{module}.__main__" if package else module)
    with pytest.raises(ParsedError):
        found.main() if hasattr(found, "main") else found.run_alone(found.run, "")


@pytest.mark.parametrize("line", quoted_commands("make"))
def test_a_quoted_make_command_has_its_targets_and_variables(line):
    words = [word for word in shlex.split(line) if word != "..."]
    variables = {word.split("=")[0] for word in words if "=" in word}
    makefile = (ROOT / "Makefile").read_text()
    assert variables <= set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    assert {word for word in words if "=" not in word} <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or (words == ["predict"] and "give an image, a folder or a video" in done.stderr), (
        done.stderr
    )


def templates():
    """Yield every string of the source, with `…` for the inserted values."""
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def messages():
    """Yield the first column of the tables of error messages."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    for table in re.findall(r"^\| message .*\n((?:\|.*\n)+)", page, re.MULTILINE):
        yield from re.findall(r"^\| `([^`]*)` \|", table, re.MULTILINE)


def options(parser, prefix):
    """Yield (command, flag or argument, help) of a parser and of its subparsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options(below, f"{prefix} {name}")
        else:
            yield prefix, [*action.option_strings, action.dest][-1], action.help


@pytest.mark.parametrize("room", ["cache", "precompute", "train"])
def test_every_flag_and_argument_says_in_the_help_what_it_is(room):
    found = list(options(importlib.import_module(f"{room}.__main__")._parser(), room))
    assert len(found) > 20
    assert [(command, flag) for command, flag, text in found if not text] == []


@pytest.mark.parametrize(("room", "count"), [("cache", 10), ("precompute", 1), ("train", 11)])
def test_every_command_teaches_by_examples_of_its_own(room, count):
    found = dict(descriptions(importlib.import_module(f"{room}.__main__")._parser()))
    assert len(found) == count
    few = [prog for prog, text in found.items() if sum(f"{prog} " in f"python -m {e}" for e in examples(text)) < 2]
    assert few == []


def test_every_message_of_the_troubleshooting_page_is_one_that_the_source_says():
    texts, quoted = list(templates()), list(messages())
    assert len(quoted) > 30
    said = [message for message in quoted if not message.startswith("No module named")]  # Python says that
    assert [message for message in said if not any(message in text for text in texts)] == []


def test_every_link_between_pages_leads_somewhere():
    links = [
        (name_of(page), link)
        for page in PAGES
        for link in re.findall(
            r"\]\((?!https?:|#)([^)#]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        )
    ]
    assert len(links) > 30
    assert [(page, link) for page, link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_python_and_toml_in_the_pages_are_python_and_toml():
    for page in PAGES:
        for code in blocks(page.read_text(), "python"):
            compile(code, name_of(page), "exec")
        for code in blocks(page.read_text(), "toml"):
            tomllib.loads(code)


def test_what_the_page_of_choices_calls_a_default_is_one():
    from train.__main__ import _parser

    rows = re.findall(r"^\| [^|]+\| ([^|]*)the default", (ROOT / "docs/choosing.md").read_text(), re.MULTILINE)
    words = [word for row in rows for code in re.findall(r"`(--[^`]+)`", row) for word in code.split()]
    assert words
    needed = ["distill", "--store", "s", "--val-store", "v", "--out", "o"]
    assert parse(_parser(), [*needed, *words]) == parse(_parser(), needed)


def test_the_page_of_teachers_gives_names_that_exist_with_their_published_numbers():
    from precompute.teacher.hrnet import HRNET
    from precompute.teacher.loading import check_name

    rows = (ROOT / "docs/teachers.md").read_text().splitlines()
    named = {name: row for row in rows for name in re.findall(r"`(hrnet\w+_\d+x\d+|hf:[\w-]+/[\w-]+)`", row)}
    assert len(named) > 15
    for name in named:
        check_name(name)
    numbers = {p.name: p.ap for p in HRNET.published}
    assert [name for name, row in named.items() if name in numbers and f"{numbers[name]}" not in row] == []


def test_the_quickstart_runs_as_it_stands_in_a_folder_with_spaces(tmp_path, monkeypatch):
    here = tmp_path / "a clone of mine"
    here.mkdir()
    (here / "precompute").symlink_to(ROOT / "precompute")
    monkeypatch.chdir(here)
    page = ROOT / "docs/quickstart.md"
    lines = [words for program, words in commands(page) if program == "python"]
    assert len(lines) == 10
    for module, *words in lines:
        assert importlib.import_module(f"{module}.__main__").main(words) == 0, (module, words)
    assert "AP" in Path("report.html").read_text()
    assert len(list(Path("predictions/pictures").iterdir())) == 6
