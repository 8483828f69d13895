"""The steps from one database schema to the next, in order. A released step never changes."""
