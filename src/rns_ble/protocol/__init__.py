"""The wire protocol without I/O: no Trio, no RNS, no logging, and time is an argument."""
