"""Where the rows of a gallery are kept: a file or a server, in clear or encrypted."""
