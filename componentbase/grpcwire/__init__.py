"""gRPC over HTTP/2, server and client, for the two ends of the store (ADR 005).

    frames.py  huffman.py  hpack.py   bytes to frames and header lists, and back          pure
    status.py  rpc.py  messages.py    what gRPC says by headers, and its message framing  pure
    connection.py                     one HTTP/2 connection: streams, flow control, limits pure
    server.py  client.py              asyncio protocols, TLS, tasks, deadlines             shells

The pure part takes bytes and leaves bytes in `Connection.out`; it never waits. References: RFC 9113 (HTTP/2),
RFC 7541 (HPACK), and the gRPC project's PROTOCOL-HTTP2.md.
"""
