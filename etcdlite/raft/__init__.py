"""The Raft core: a pure state machine without I/O, clock, randomness or event loop."""
