"""What MQTT 5.0 demands of both sides, statement by statement."""
