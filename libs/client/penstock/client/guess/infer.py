"""Turns a file into the text of its first pipeline file, in four steps: read, decide, doubt, write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from penstock.client.ages import Ages, ages_of
from penstock.client.guess.decide import Answers, Baseline, Guess, decide, doubted, suspected
from penstock.client.guess.doubts import doubts
from penstock.client.guess.table import Table
from penstock.client.guess.write import written

_LACKING = "No leak was looked for, no model tried: pip install 'penstock-client[init]', and again."


GUESSES = Answers()


@dataclass(frozen=True)
class First:
    """A first pipeline: its file, and what it rests on."""

    text: str
    guess: Guess
    baseline: Baseline | None
    ages: Ages


def first(table: Table, answers: Answers = GUESSES) -> First:
    """A first pipeline for the sample. Seconds where there are many columns: small models look for
    leaks. Raises Invalid where there is nothing to learn.
    """
    guess = decide(table, answers)
    ages = ages_of(guess.timestamp.present if guess.timestamp else (), datetime.now(UTC))
    try:
        from penstock.client.guess import evidence
        from penstock.client.guess.proxies import given_back
    except ImportError:
        guess = doubted(guess, doubts(guess))
        return First(written(guess, None, ages, _LACKING), guess, None, ages)
    guess = suspected(guess, evidence.leaks(guess), answers.kept)
    guess = suspected(guess, given_back(guess), answers.kept)
    guess = doubted(guess, doubts(guess))
    found = evidence.baseline(guess)
    questions = {one.name: one.doubt for one in guess.inputs() if one.doubt}
    if found and questions and (certain := evidence.baseline(suspected(guess, questions, kept=()))):
        found = replace(certain, doubted=tuple(questions), with_doubted=found.mean)
    return First(written(guess, found, ages), guess, found, ages)
