"""Raises and tears down clusters; knows daemons only by their command lines."""
