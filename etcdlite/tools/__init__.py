"""Work on the files of a member that does not run: restore a snapshot, show a log, show a database."""
