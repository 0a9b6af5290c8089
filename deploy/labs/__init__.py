"""The labs of docs/labs: read, prepared, executed and checked by machine, so that they stay true."""
