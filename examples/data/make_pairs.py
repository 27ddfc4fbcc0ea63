"""Writes the two small data sets of the examples, the same every time: `python examples/data/make_pairs.py`.

`pairs-train.jsonl` and `pairs-validation.jsonl` hold pairs of sentences and whether they say the same, in the columns
of GLUE's MRPC. Every sentence reports an event: who did what and when, each in one of several wordings. A paraphrase
tells the same event in other words and another order. Where two sentences are none, one of them denies what the other
reports; in one of ten cases it tells of somebody else instead, which is harder to see.

`stories.jsonl` holds short texts of a few sentences for a language model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAIRS, HELD_OUT, STORIES = 720, 144, 240

EVENTS = [
    [["the bakery", "the bread shop"], ["opened a second shop", "opened another branch"]],
    [["the ferry", "the island boat"], ["arrived on time", "reached port as planned"]],
    [["the home team", "the local side"], ["won the final", "took the cup"]],
    [["the river", "the old stream"], ["rose after the rain", "swelled by a foot"]],
    [["the museum", "the gallery"], ["sold its last picture", "parted with its last work"]],
]
TIMES = [["on Monday", "as the week began"], ["in spring", "in April"], ["last night", "yesterday evening"]]
SOURCES = ["officials", "neighbours", "the paper", "a witness"]
YES = ["{it}", "{it}, {they} said", "{they} reported that {it}", "{they} confirmed that {it}"]
NO = [
    "{they} denied that {it}",
    "it is not true that {it}",
    "{they} doubted that {it}",
    "{they} hoped in vain that {it}",
]


def sentence(who: int, time: int, forms: list[str], words: random.Random) -> str:
    """One way to tell, in one of these forms, what `EVENTS[who]` did at `TIMES[time]`."""
    subject, verb = (words.choice(each) for each in EVENTS[who])
    when = words.choice(TIMES[time])
    it = words.choice([f"{subject} {verb} {when}", f"{when} {subject} {verb}"])
    told = words.choice(forms).format(it=it, they=words.choice(SOURCES))
    return f"{told[0].upper()}{told[1:]}."


def pair(number: int, words: random.Random) -> dict[str, Any]:
    """Two sentences; even numbers are paraphrases."""
    label = 1 - number % 2
    who, time = words.randrange(len(EVENTS)), words.randrange(len(TIMES))
    both = [(who, YES), (who, YES)]
    if not label and words.random() < 0.9:
        both[words.randrange(2)] = (who, NO)
    elif not label:
        both[1] = ((who + 1) % len(EVENTS), YES)
    first = sentence(both[0][0], time, both[0][1], words)
    second = first
    while second == first:
        second = sentence(both[1][0], time, both[1][1], words)
    return {"idx": number, "sentence1": first, "sentence2": second, "label": label}


def story(words: random.Random) -> str:
    """A short text: somebody, a find, what came of it."""
    name = words.choice(["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn"])
    find = words.choice(["a key", "a map", "an old coin", "a red kite", "a lost cat"])
    place = words.choice(["in the park", "under the bridge", "behind the school", "on the beach"])
    lines = [f"{name} found {find} {place}."]
    thing = find.split(" ", 1)[1]
    if words.random() < 0.7:
        lines.append(words.choice([f"Nobody knew whose {thing} it was.", f"The {thing} was wet and cold."]))
    if words.random() < 0.6:
        friend = words.choice(["a friend", "the teacher", "a neighbour"])
        lines.append(f"{name} showed the {thing} to {friend}, who had never seen one like it.")
    if words.random() < 0.5:
        lines.append(f"So {name} took the {thing} home and went to sleep.")
    return " ".join(lines)


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")


def main() -> None:
    words = random.Random(0)
    pairs = [pair(number, words) for number in range(PAIRS)]
    write("pairs-train.jsonl", pairs[:-HELD_OUT])
    write("pairs-validation.jsonl", pairs[-HELD_OUT:])
    write("stories.jsonl", ({"text": story(words)} for _ in range(STORIES)))


if __name__ == "__main__":
    main()
