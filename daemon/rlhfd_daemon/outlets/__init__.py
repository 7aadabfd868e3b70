"""What leaves the daemon besides alerts. To add an outlet: a sink (pipeline.py) in a file here, a line in all.py."""
