"""The agent on a device: disk, MQTT (paho), HTTPS, telemetry, packages."""
