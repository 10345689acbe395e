"""Services of a running process: peers, signals, compilation cache, files and hardware."""
