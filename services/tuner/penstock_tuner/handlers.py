"""Kafka in: wishes for studies."""

from __future__ import annotations

from penstock.contracts.events import TuningStudyRequested
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_tuner.studies import Studies


def router(studies: Studies, store: Store) -> Router:
    router = Router(group="penstock.tuner", store=store)

    @router.on(TuningStudyRequested)
    def on_tuning_study_requested(event: TuningStudyRequested, effect: Effect) -> None:
        studies.accept(event, effect)

    return router
