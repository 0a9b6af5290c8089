"""HTTP/1.1 for daemons: a server on uvicorn that shows client certificates and gives up upgraded
connections.
"""
