"""Services and EndpointSlices become packet-filter rules."""
