"""The disk: shards of rows, what commits them, and all that keeps them whole."""
