"""A lean HTTP/1.1 client: what a request and an answer are, one connection, a pool of them.

General clients spend most of a request's CPU on what the API never asks for: cookies, redirects, proxies, a
scan of the whole pool. Here a request is one write and its answer one future.
"""
