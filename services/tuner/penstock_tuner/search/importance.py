"""Importance of parameters for the best trials, by PED-ANOVA.

S. Watanabe, A. Bansal and F. Hutter, *PED-ANOVA: Efficiently Quantifying Hyperparameter Importance
in Arbitrary Subspaces* (2023), in the form for conditional parameters that Optuna has.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.contracts.space import Space
from penstock_tuner.search.tried import Tried

FEWEST = 10  # trials, of which the best third is compared with all


def importance(space: Space, tried: Sequence[Tried]) -> dict[str, float]:
    """Shares of the parameters, which add up to 1, the largest first; {} of fewer than `FEWEST`
    complete trials, or where all parameters are alike.
    """
    complete = [one for one in tried if one.state == "complete" and one.choices and not one.members]
    if len(complete) < FEWEST:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from penstock_tuner.search.studies import study

    made = study(space, complete, len(complete[0].values or ()))
    found = get_param_importances(made, evaluator=PedAnovaImportanceEvaluator(target_quantile=1 / 3))
    return {name: float(share) for name, share in found.items()}
