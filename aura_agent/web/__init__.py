"""What answers HTTP for the daemon: the control socket for the command line, probes, metrics and a page for people."""
