"""Streaming protocols over an upgraded connection: WebSocket channels and SPDY/3.1."""
