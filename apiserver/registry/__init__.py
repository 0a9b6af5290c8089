"""The generic registry: what create, get, list, update, patch and delete mean, for every kind alike."""
