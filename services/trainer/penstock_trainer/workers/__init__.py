"""Workers that train one model together, each a process: the port, and its adapters."""
