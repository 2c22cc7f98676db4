"""The command line explains itself: help, examples, near misses, completion, defects."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_runs import run, succeed

from ulmfit_fast.cli import SECTIONS, VERBS, main
from ulmfit_fast.cli.status import EXIT_DEFECT, STATUSES
from ulmfit_fast.commands.summary import next_commands

PROGRAM = "from ulmfit_fast.cli import main; main(prog_name='ulmfit-fast')"


def command(verb: str) -> click.Command:
    found = main.get_command(click.Context(main), verb)
    assert found is not None
    return found


def test_help_lists_every_verb_once_with_its_whole_first_sentence() -> None:
    said = " ".join(succeed("--help").stdout.split())
    for verb in VERBS:
        paragraph = " ".join((command(verb).help or "").split("\n\n")[0].split())
        assert paragraph.split(". ")[0].removesuffix(".") in said
    listed = [verb for verbs in SECTIONS.values() for verb in verbs]
    assert len(listed) == len(set(listed))
    assert set(VERBS) <= set(listed)
    assert "..." not in said.replace("[ARGS]...", "")
    assert " ".join(STATUSES.split()) in said


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_with_an_example_whose_options_it_has(verb: str) -> None:
    *_, example = succeed(verb, "--help").stdout.strip().split("Example: ")
    words = shlex.split(example)
    assert words[:2] == ["ulmfit-fast", verb]
    assert "\n" not in example
    assert len(f"  Example: {example}") <= 80
    arguments = command(verb).make_context(verb, words[2:], resilient_parsing=False).params
    assert "as_json" not in arguments or arguments["as_json"] is False


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy_and_is_immediate(verb: str) -> None:
    code = (
        "import sys\n"
        "from ulmfit_fast.cli import main\n"
        f"main(['{verb}', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'rich', 'datasets', 'matplotlib', 'fastapi'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    assert any(processor_seconds([sys.executable, "-c", code]) <= 0.3 for _ in range(3))


def processor_seconds(command: list[str]) -> float:
    """Return what a program takes of the processor: other work on the machine does not count."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "x.csv"], "error: no such verb 'trian': did you mean train?"),
        (["zzzz"], "error: no such verb 'zzzz': the verbs are demo, train"),
        (["train", "x.csv", "--ephocs", "3"], "no such option --ephocs: did you mean --epochs?"),
        (["train", "x.csv", "--epochs", "0"], "0 is less than 1"),
        (["train", "x.csv", "--epochs", "many"], "'many' is not a whole number"),
        (["completion"], "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"),
        (["--nonsense"], "error: no such option --nonsense"),
    ],
)
def test_what_is_misspelt_is_one_line_with_the_nearest_name(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_completion_script(shell: str, tmp_path: Path) -> None:
    script = succeed("completion", shell).stdout
    assert "_ULMFIT_FAST_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def completed(words: str, folder: Path) -> list[str]:
    """Return what the program offers for the last of some words, as bash would ask it."""
    given = ["ulmfit-fast", *words.split(" ")]
    environment = os.environ | {
        "_ULMFIT_FAST_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(given),
        "COMP_CWORD": str(len(given) - 1),
    }
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=folder, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return found.stdout.split()


def test_completion_offers_verbs_options_and_models(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    assert "plain,predict" in completed("pre", tmp_path)
    assert "plain,--epochs" in completed("train --ep", tmp_path)
    assert any("runs/mine" in offer for offer in completed("predict ", tmp_path))


@pytest.mark.parametrize("is_classifier", [True, False])
def test_every_command_that_a_run_offers_next_can_be_called(is_classifier: bool) -> None:
    with click.Context(main):
        offered = next_commands(Path("runs/a b's"), is_classifier=is_classifier)
    verbs = [shlex.split(words)[1] for words in offered]
    assert verbs == (
        ["predict", "inspect", "report", "serve"] if is_classifier else ["train", "generate"]
    )
    for words in offered:
        program, verb, *arguments = shlex.split(words)
        assert program == "ulmfit-fast"
        assert "runs/a b's" in arguments
        command(verb).make_context(verb, arguments)
    assert [words.split()[1] for words in next_commands(Path("x"), is_classifier=True)] == [
        "predict"
    ]


def test_a_warning_of_a_library_is_one_line() -> None:
    code = (
        "import sys, warnings; from ulmfit_fast.commands import info\n"
        "info.say_environment = lambda *a: warnings.warn('two\\nlines', stacklevel=2)\n"
        "sys.argv = ['ulmfit-fast', 'info']\n" + PROGRAM
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "warning: two lines\n"


def test_a_defect_is_one_line_and_debug_shows_where() -> None:
    code = (
        "import sys; from ulmfit_fast.commands import info\n"
        "def fails(*a): raise KeyError('a \\x1b[31m key')\n"
        "info.say_environment = fails\n" + PROGRAM
    )
    plain, debug = (
        subprocess.run(
            [sys.executable, "-c", code, "info", *more], capture_output=True, text=True
        )
        for more in ([], ["--debug"])
    )  # fmt: skip
    assert plain.returncode == debug.returncode == EXIT_DEFECT
    assert plain.stderr.startswith("error: internal error, KeyError: ")
    assert len(plain.stderr.splitlines()) == 1
    assert "\x1b" not in plain.stderr
    assert "Traceback" in debug.stderr
