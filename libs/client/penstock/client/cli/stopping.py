"""stop, resume."""

from __future__ import annotations

import getpass
from contextlib import suppress
from typing import Annotated

import typer

from penstock.client.cli.following import SERVED_WITHIN_S, attempts
from penstock.client.cli.output import AsJson, fail, show
from penstock.client.client import Penstock
from penstock.contracts.errors import Unavailable
from penstock.inference.v1 import inference_pb2 as inference

IN_THE_FILE = "serving.stopped"


def stop(
    pipeline: str,
    why: Annotated[str, typer.Option(help="The reason: signed, kept, and told to whoever asks.")],
    as_json_: AsJson = False,
) -> None:
    """Let no version of a pipeline answer until it is resumed.

    Nor does one at a site. Applies the pipeline's newest file with serving.stopped, and waits until
    nothing answers here. A site that is cut off hears of it when it is back.
    """
    with Penstock() as penstock:
        applied = penstock.pipelines.stop(pipeline, why, by=getpass.getuser())
        if not _until(penstock, pipeline, served=False):
            fail(f"{pipeline} is to stop, but not within {SERVED_WITHIN_S:.0f} s; see penstock status")
    show(
        applied,
        f"{pipeline} is stopped, number {applied.number}: nothing answers until penstock resume {pipeline}",
        f"its file says {IN_THE_FILE} from here on; applying one that does not has it answer again",
        as_json=as_json_,
    )


def resume(pipeline: str, as_json_: AsJson = False) -> None:
    """Let the promoted version of a stopped pipeline answer again."""
    with Penstock() as penstock:
        applied = penstock.pipelines.resume(pipeline, by=getpass.getuser())
        promoted = penstock.pipelines.get(pipeline).promoted_digest
        if promoted and not _until(penstock, pipeline, served=True):
            fail(f"{pipeline} is to answer, but not within {SERVED_WITHIN_S:.0f} s; see penstock status")
    was = (
        f"is stopped no longer, number {applied.number}: it"
        if applied.changed
        else f"was not stopped, its file stays number {applied.number}: it"
    )
    answers = "answers again" if applied.changed else "answers"
    said = f"{pipeline} {was} {answers if promoted else 'has no promoted version'}"
    show(applied, said, as_json=as_json_)


def _until(penstock: Penstock, pipeline: str, *, served: bool) -> bool:
    """Tells whether the pipeline comes to answer, or to be stopped, within the time."""
    for _ in attempts(SERVED_WITHIN_S, every=0.1):
        with suppress(Unavailable):
            told = penstock.predictions.serving().pipelines
            of_it = next((one for one in told if one.pipeline == pipeline), inference.Serving())
            if bool(of_it.digest) == served and bool(of_it.stopped) != served:
                return True
    return False
