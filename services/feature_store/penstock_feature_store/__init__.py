"""Records in a lake and online; training sets."""
