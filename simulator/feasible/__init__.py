"""Which plans can start: the space of layouts, what engines support, and how a server sizes itself."""
