"""Hub: answers the sites beside Kafka, and people who enroll them."""
