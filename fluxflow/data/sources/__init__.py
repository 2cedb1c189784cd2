"""Where samples come from: folders, tables and tar shards, local or remote."""
