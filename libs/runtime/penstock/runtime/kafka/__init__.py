"""One way to Kafka for the data plane (many messages, alike, in batches of thousands) and for what
both planes ask of Kafka: topics, groups, consumers that stand still.

Topics are named as in the catalogue; the installation's prefix is added here and nowhere else.
"""
