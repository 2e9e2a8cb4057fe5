"""Parts of a pipeline's file that a site has to carry out. A release that does not know one would pass it
over, and values would leave that may not, or a stopped model would answer: so a site says which it knows,
and is told no file with others, nor any version of that pipeline, whose records the file in its package
would judge. The platform shows what is held back.
"""

from __future__ import annotations

from typing import Final

from penstock.contracts.pipeline import Pipeline

PSEUDONYMIZE: Final = "edge.pseudonymize"
STOPPED: Final = "serving.stopped"
FEATURES: Final = frozenset({PSEUDONYMIZE, STOPPED})
"""Those that this release carries out."""


def needed(pipeline: Pipeline) -> frozenset[str]:
    """Features that the file asks of a site."""
    asked = {PSEUDONYMIZE: pipeline.edge.pseudonymize, STOPPED: pipeline.serving.stopped}
    return frozenset(feature for feature, said in asked.items() if said)
