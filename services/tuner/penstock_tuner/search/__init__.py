"""Search of a study: pure functions from the trials' rows to what is tried next, and which was best.

Nothing here is kept between two calls, and the same rows and seed give the same answer, so that a
study goes on after a kill as if there had been none. Optuna is imported by those who use it only.
"""

from penstock_tuner.search.ask import ask, space_of
from penstock_tuner.search.choice import best, rule, value
from penstock_tuner.search.front import front
from penstock_tuner.search.importance import importance
from penstock_tuner.search.known import known, same_split
from penstock_tuner.search.pruners import climbed, prunes
from penstock_tuner.search.tried import Choices, Tried

__all__ = [
    "Choices",
    "Tried",
    "ask",
    "best",
    "climbed",
    "front",
    "importance",
    "known",
    "prunes",
    "rule",
    "same_split",
    "space_of",
    "value",
]
