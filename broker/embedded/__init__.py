"""The embedded engine: amqtt's life cycle and codec, with sessions and routing of our own."""
