"""What travels between agent and platform: topics, messages, codec, signed envelopes."""
