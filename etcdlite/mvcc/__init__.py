"""MVCC: every key at every revision since the last compaction."""
