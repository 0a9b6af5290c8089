"""The classic checklist: each daemon's job proven once, from outside, with the tools anyone has."""
