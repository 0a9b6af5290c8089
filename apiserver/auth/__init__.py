"""Who is asking, and whether they may: authenticators, the Node and RBAC authorizers, service-account
tokens.
"""
