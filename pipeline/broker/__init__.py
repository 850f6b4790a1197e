"""The log: Kafka, or an embedded one in SQLite; nothing above the port knows which."""
