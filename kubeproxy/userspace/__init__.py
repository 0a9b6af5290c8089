"""The back end that needs no packet filter: this process listens on the services' addresses and relays."""
