"""Topic of a pipeline's predictions."""

from __future__ import annotations

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, predictions_topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings


def ensure_predictions_topic(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Makes the topic where it is missing, with the retention that the pipeline asks for. Blocks.
    Raises Unavailable.
    """
    name = predictions_topic(pipeline.pipeline)
    ensure_topics(kafka, [topic for topic in pipeline_topics(pipeline) if topic.name == name])
