"""The apiserver under input that nobody would write: it may refuse anything, and must survive everything."""
