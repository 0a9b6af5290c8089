"""From HTTP to the registry: request info, negotiation, the ordered chain, verbs, watches, discovery,
proxying.
"""
