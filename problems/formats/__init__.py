"""Files of block problems: one file a format, behind one registry."""
