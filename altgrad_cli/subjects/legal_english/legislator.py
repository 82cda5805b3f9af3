"""Draws acts from the grammar in ``legal_english``: deterministic, seeded, some megabytes in a second or two.

An act is planned before it is written (its subject, its articles and their paragraphs, the terms it
defines), so that a cross-reference points at a paragraph that exists. Later acts cite earlier ones by
number, the old ones most: the statute book grows as statute books do.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from altgrad_cli.subjects.legal_english.grammar import GRAMMAR, SUBJECTS

ACTS = 400
SEED = 42
FIRST_YEAR = 2031
ACTS_A_YEAR = 28

_SLOT = re.compile(r"\{([\w:]+)\}")
_ROMAN = ("I", "II", "III", "IV")


@cache
def zipf(count: int) -> list[float]:
    """Cumulative weights 1, 1 + 1/2, 1 + 1/2 + 1/3 ..."""
    return list(accumulate(1 / rank for rank in range(1, count + 1)))


def entries(text: str) -> list[list[str]]:
    """Unindented lines, each with the indented lines that follow it, stripped."""
    found: list[list[str]] = []
    for line in filter(str.strip, text.splitlines()):
        if line.startswith(" "):
            found[-1].append(line.strip())
        else:
            found.append([line])
    return found


def parse_grammar(text: str) -> dict[str, list[list[str]]]:
    """Rule name -> alternatives, each split into literal, slot, literal, slot ... literal."""
    rules = {}
    for first, *more in entries(text):
        name, _, body = first.partition(":")
        listed = "\n".join([body, *more]).split("\n- ")[1:] or " ".join([body, *more]).split(" / ")
        rules[name] = [_SLOT.split(" ".join(alternative.split())) for alternative in listed]
    return rules


def parse_subjects(text: str) -> list[dict[str, list[str]]]:
    """The table of subjects; each row gives the act-wide slots and what may fill them."""
    columns = ("thing", "things", "definition", "part", "mishap", "actor", "activity")
    rows = []
    for lines in entries(text):
        row = dict(zip(columns, " ".join(lines).split(" | "), strict=True))
        listed = {name: row[name].split(", ") for name in ("part", "mishap", "actor")}
        rows.append(
            {name: [cell] for name, cell in row.items()}
            | listed
            | {"actors": [plural(actor) for actor in listed["actor"]]}
        )
    return rows


def plural(noun: str) -> str:
    """Plural of an agent noun."""
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def indefinite(words: str) -> str:
    """``words`` behind ``a`` or ``an``, as far as this vocabulary needs it."""
    vowel = words[0] in "aeiouAEIOU" and not re.match("uni|use|eu|one", words, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {words}"


RULES = parse_grammar(GRAMMAR)
STATUTES = parse_subjects(SUBJECTS)


@dataclass
class Draft:
    """One act being drafted. ``slots`` holds what stays the same throughout the act."""

    rng: random.Random
    slots: dict[str, list[str]]
    year: int
    paragraphs: list[int]
    """Paragraphs of each article, in order."""
    annexes: int
    footnotes: list[str] = field(default_factory=list)

    def rank(self, count: int) -> int:
        """0 to count - 1, Zipf-distributed. Only ``rng.random()`` is stable over Python versions."""
        weights = zipf(count)
        return bisect(weights, self.rng.random() * weights[-1])

    def pick(self, words: Sequence[str]) -> str:
        """One of ``words``, the first most often."""
        return words[self.rank(len(words))]

    def say(self, rule: str) -> str:
        """One alternative of a rule, its slots filled."""
        alternatives = RULES[rule]
        return self.fill(alternatives[self.rank(len(alternatives))])

    def fill(self, parts: list[str]) -> str:
        """Literals as they are, slots replaced."""
        return "".join(self.slot(part) if index % 2 else part for index, part in enumerate(parts))

    def slot(self, name: str) -> str:
        """What ``{name}`` becomes here."""
        if name.startswith("a:"):
            return indefinite(self.slot(name.removeprefix("a:")))
        if name[0].isupper():
            return capital(self.slot(name.lower()))
        if name in self.slots:
            return self.pick(self.slots[name])
        if name in RULES:
            return self.say(name)
        return str(getattr(self, name)())

    def reference(self) -> str:
        """A paragraph of this act, which exists."""
        article = int(self.rng.random() * len(self.paragraphs))
        paragraphs = self.paragraphs[article]
        return f"Article {article + 1}" + (f"({1 + self.rank(paragraphs)})" if paragraphs > 1 else "")

    def annex_reference(self) -> str:
        """An annex of this act, which exists."""
        return f"Annex {_ROMAN[self.rank(self.annexes)]}"

    def committee_article(self) -> str:
        """The third article from the end sets up the committee."""
        return f"Article {len(self.paragraphs) - 2}(2)"

    def final_article(self) -> str:
        """The last article says when the act enters into force."""
        return f"Article {len(self.paragraphs)}"

    def day(self, year: int) -> str:
        """A day in ``year``."""
        return f"{1 + int(self.rng.random() * 28)} {self.say('month')} {year}"

    def date(self) -> str:
        """A day to come, soon rather than late."""
        return self.day(self.year + 1 + self.rank(6))

    def earlier_date(self) -> str:
        """A day gone by, recently rather than long ago."""
        return self.day(self.year - 1 - self.rank(9))

    def footnote(self) -> str:
        """A mark in the text; the note itself waits until the end of the act."""
        day, month = 1 + int(self.rng.random() * 28), 1 + int(self.rng.random() * 12)
        issue, page = 1 + int(self.rng.random() * 380), 1 + self.rank(300)
        year = self.year - 1 - self.rank(9)
        self.footnotes.append(f"OJ L {issue}, {day}.{month}.{year}, p. {page}.")
        return f" ({len(self.footnotes)})"


def capital(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


class Act(NamedTuple):
    """One act, and what it was drawn to be: its matter, its kind and the institution that adopts it."""

    text: str
    labels: tuple[str, str, str]


def draft_acts(acts: int = ACTS, seed: int = SEED) -> list[str]:
    """The texts of ``draft_statute_book``."""
    return [act.text for act in draft_statute_book(acts, seed)]


def draft_statute_book(acts: int = ACTS, seed: int = SEED) -> list[Act]:
    """``acts`` acts of some 6 kB each, oldest first; equal arguments, equal text."""
    rng = random.Random(seed)
    citations: list[str] = []
    return [draft_act(rng, number, citations) for number in range(acts)]


def draft_act(rng: random.Random, number: int, citations: list[str]) -> Act:
    """The next act; its own citation is appended to ``citations``."""
    year = FIRST_YEAR + number // ACTS_A_YEAR
    weights = zipf(len(STATUTES))
    subject = STATUTES[bisect(weights, rng.random() * weights[-1])]
    paragraphs = [2, 0] + [1 + int(rng.random() * 4) for _ in range(5 + int(rng.random() * 9))] + [3, 3, 3, 1]
    draft = Draft(rng, dict(subject), year, paragraphs, annexes=1 + int(rng.random() * 3))
    others = [row for row in STATUTES if row is not subject]
    draft.slots["earlier_act"] = citations or ["the Treaty of Little Quorum"]
    draft.slots["other_thing"] = [row["thing"][0] for row in others]
    draft.slots["other_things"] = [row["things"][0] for row in others]
    kind, body = draft.say("kind"), draft.say("body")
    draft.slots["kind_here"] = [kind]
    definitions = define_terms(draft)
    adopted = draft.day(year)
    citation = f"{kind} (EU) {year}/{10 + 37 * (number % ACTS_A_YEAR) + int(rng.random() * 37)}"
    text = "\n".join(
        [
            f"{citation.upper()} OF THE {body.upper()}",
            f"of {adopted}",
            draft.say("title"),
            f"THE {body.upper().replace(' AND OF THE', ' AND THE')} OF THE UNION,",
            *preamble(draft),
            f"{'HAVE' if ' and ' in body else 'HAS'} ADOPTED THIS {kind.upper()}:",
            *enacting_terms(draft, definitions),
            f"Done at {draft.say('city')}, {adopted}.",
            f"For the {body.replace(' and of the', ' and the')}",
            "The President",
            draft.say("signatory"),
            *annexes(draft),
            *(f"({mark}) {note}" for mark, note in enumerate(draft.footnotes, start=1)),
        ]
    )
    citations.append(citation)
    return Act(text, (subject["thing"][0], kind, body))


def define_terms(draft: Draft) -> list[str]:
    """Lines of Article 2; fills the slot ``defined_term`` for the rest of the act."""
    slots = draft.slots
    defined = [(slots["thing"][0], slots["definition"][0])]
    defined += [
        (actor, f"any person who {draft.say('does')} {draft.slot('a:thing')}") for actor in slots["actor"]
    ]
    terms = RULES["term"]
    for index in sorted({draft.rank(len(terms)) for _ in range(5)}):
        name, _, meaning = draft.fill(terms[index]).partition(" | ")
        defined.append((name, meaning))
    names = [
        f"‘{name}’ within the meaning of Article 2, point ({k})" for k, (name, _) in enumerate(defined, 1)
    ]
    slots["defined_term"] = names[len(slots["actor"]) + 1 :] or names
    lines = [f"({k}) ‘{name}’ means {meaning}" for k, (name, meaning) in enumerate(defined, 1)]
    return ["For the purposes of this " + slots["kind_here"][0] + ", the following definitions apply:"] + [
        line + (";" if line is not lines[-1] else ".") for line in lines
    ]


def preamble(draft: Draft) -> list[str]:
    """Citations in the grammar's order, then recitals, no two cut from the same cloth."""
    citations = sorted({draft.rank(len(RULES["citation"])) for _ in range(4)} | {0})
    recitals = RULES["recital"]
    count = 4 + int(draft.rng.random() * (len(recitals) - 4))
    chosen: list[int] = []
    while len(chosen) < count:
        if (index := draft.rank(len(recitals))) not in chosen:
            chosen.append(index)
    return [
        *(draft.fill(RULES["citation"][index]) for index in citations),
        "Whereas:",
        *(f"({number}) {draft.fill(recitals[index])}" for number, index in enumerate(chosen, start=1)),
    ]


def enacting_terms(draft: Draft, definitions: list[str]) -> list[str]:
    """Articles 1 to n: scope, definitions, the drawn ones, penalties, committee, review, entry into force."""
    headings: list[str] = []
    while len(headings) < len(draft.paragraphs) - 6:
        heading = draft.say("heading")
        if heading not in headings:
            headings.append(heading)
    articles = [
        ("Subject matter and scope", [draft.say("scope"), draft.say("exemption")]),
        ("Definitions", definitions),
        *(
            (heading, [draft.say("paragraph") for _ in range(count)])
            for heading, count in zip(headings, draft.paragraphs[2:-4], strict=True)
        ),
        ("Penalties", [draft.fill(part) for part in RULES["penalties"]]),
        ("Committee procedure", [draft.fill(part) for part in RULES["committee"]]),
        ("Evaluation and review", [draft.fill(part) for part in RULES["review"]]),
        ("Entry into force", [draft.say("entry_into_force")]),
    ]
    lines = []
    for number, (heading, body) in enumerate(articles, start=1):
        numbered = len(body) > 1 and heading != "Definitions"
        lines += [f"Article {number}", capital(heading)]
        lines += [f"{k}. {capital(text)}" if numbered else capital(text) for k, text in enumerate(body, 1)]
    return lines


def annexes(draft: Draft) -> list[str]:
    """Every annex that the articles may refer to."""
    lines = []
    for number in range(draft.annexes):
        lines += [f"ANNEX {_ROMAN[number]}", capital(draft.say("annex_title"))]
        lines += [
            f"{k}. {capital(draft.say('annex_line'))}" for k in range(1, 4 + int(draft.rng.random() * 9))
        ]
    return lines
