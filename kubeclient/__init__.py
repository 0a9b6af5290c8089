"""REST client, watch, informer, work queue, leader election, event recorder."""
