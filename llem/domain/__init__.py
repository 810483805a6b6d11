"""The values that llem keeps: immutable, checked at construction, without any I/O."""
