"""The examples that need no network: each runs offline, and loopkit says of it what its docstring promises."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from tests.cli.command import Result, loopkit, python

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _caches_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def watched(example: str, *options: str) -> Result:
    return loopkit("run", f"examples/{example}.py", *options, cwd=ROOT)


def page(example: str) -> str:
    """Its docstring."""
    return ast.get_docstring(ast.parse((EXAMPLES / f"{example}.py").read_text(encoding="utf-8"))) or ""


def words(text: str) -> str:
    """A text without its line breaks and numbers: those depend on the machine and on versions of tokenizers."""
    return re.sub(r"\d+", "N", " ".join(text.split()))


def row(example: str) -> str:
    """The row of events that its docstring shows."""
    (shown,) = re.findall(r"`([^`]*→[^`]*)`", page(example))
    return str(shown)


def accuracy(done: Result) -> float:
    """The last one printed."""
    return float(re.findall(r"accuracy (\d\.\d+)", done.out)[-1])


def test_causal_lm_says_word_for_word_what_its_docstring_does() -> None:
    done = watched("causal_lm")
    assert done.code == 1
    report = re.search(r"^ +error  pad-mask-wrong.*?(?=\n\n)", page("causal_lm"), re.M | re.S)
    assert report is not None
    assert words(report[0]) in words(done.err)
    source = (EXAMPLES / "causal_lm.py").read_text(encoding="utf-8").splitlines()
    (line,) = re.findall(r"causal_lm\.py:(\d+)  error  pad-mask-wrong  \(proof, step 1\)", done.err)
    assert source[int(line) - 1].strip() == "loss.backward()"
    assert re.search(r"\n  error +examples/causal_lm.py:\d+  pad-mask-wrong  in 45 updates\n  loop", done.err)


def test_inspect_gradients_says_of_the_network_what_its_docstring_does(tmp_path: Path) -> None:
    done = watched("inspect_gradients", "--logdir", str(tmp_path))
    found = re.findall(r"inspect_gradients\.py:\d+  (?:error|warning|info)  ([\w-]+)", done.err)
    assert found == ["output-collapse", "loss-not-decreasing"]
    assert all(f"`{rule}`" in page("inspect_gradients") for rule in found)


def test_causal_lm_repaired_is_silent_and_the_same_as_without_loopkit() -> None:
    done = watched("causal_lm", "--repaired", "--epochs", "1")
    assert (done.code, "nothing found" in done.err) == (0, True)
    assert python("examples/causal_lm.py", "--repaired", "--epochs", "1", cwd=ROOT).out == done.out
    assert "epoch 1  loss" in done.out


@pytest.mark.parametrize("example", ["mrpc", "mrpc_trainer"])
def test_paraphrases_are_learned_and_nothing_is_found(example: str) -> None:
    done = watched(example)
    assert (done.code, "nothing found" in done.err) == (0, True), done.err
    assert row(example) in done.err
    assert accuracy(done) > 0.8


def test_the_data_is_what_its_script_writes(tmp_path: Path) -> None:
    script = tmp_path / "make_pairs.py"
    script.write_bytes((EXAMPLES / "data" / "make_pairs.py").read_bytes())
    assert python(str(script), cwd=tmp_path).code == 0
    made = sorted(tmp_path.glob("*.jsonl"))
    assert [path.name for path in made] == ["pairs-train.jsonl", "pairs-validation.jsonl", "stories.jsonl"]
    for path in made:
        assert path.read_text(encoding="utf-8") == (EXAMPLES / "data" / path.name).read_text(encoding="utf-8")


def test_no_pair_to_validate_on_is_one_to_train_on() -> None:
    def pairs(split: str) -> list[tuple[str, str]]:
        lines = (EXAMPLES / "data" / f"pairs-{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [(row["sentence1"], row["sentence2"]) for row in map(json.loads, lines)]

    assert not set(pairs("train")) & set(pairs("validation"))


def test_no_example_bears_the_name_of_a_package() -> None:
    from importlib.machinery import PathFinder

    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != EXAMPLES.resolve()]
    for path in EXAMPLES.glob("*.py"):
        assert PathFinder.find_spec(path.stem, elsewhere) is None, (
            f"{path} hides a package from every script beside it"
        )
