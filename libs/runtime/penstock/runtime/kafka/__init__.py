"""The way to Kafka: for the data plane (many messages, alike, in batches of thousands) all of it, and
what both planes ask of Kafka.

- `clients.py` makes librdkafka's clients, `admin.py` asks Kafka's admin side by kafka-python,
  `access.py` says there who may do what
- `recovery.py` runs sessions: whatever fails ends one, and the next goes on at what is durable
- `group.py` is a member of a consumer group, `positions.py` where it stands; `assignment.py` watches
  for partitions that a group leaves out, `progress.py` for consumers that stand still
- `reading.py` reads partitions from an offset to an end, and asks where groups stand
- `transaction.py` commits messages and positions together
- `streams.py` has the two streams made of these; `messages.py` is what goes in and out of them,
  `spans.py` their traces

Topics are named as in the catalogue; the installation's prefix is added here and nowhere else.
"""
