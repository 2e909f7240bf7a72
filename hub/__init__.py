"""The hub: intake, outbox, rollout controller, sequencer, presence."""
