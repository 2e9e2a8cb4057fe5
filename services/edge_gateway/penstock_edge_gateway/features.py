"""Parts of a pipeline's file that a site has to carry out. A release that does not know one would pass it
over, and values would leave that may not: so a site says which it knows, and is told no file with others,
nor any version of that pipeline, whose records the file in its package would judge.
"""

from __future__ import annotations

from typing import Final

from penstock.contracts.pipeline import Pipeline

PSEUDONYMIZE: Final = "edge.pseudonymize"
FEATURES: Final = frozenset({PSEUDONYMIZE})
"""Those that this release carries out."""


def needed(pipeline: Pipeline) -> frozenset[str]:
    """Features that the file asks of a site."""
    return frozenset({PSEUDONYMIZE} if pipeline.edge.pseudonymize else ())
