"""Hides the installed package of this name: ``LAB_BREAK_RLHFD=unimportable`` puts this folder first on the path."""

raise ImportError("rlhfd_emitter is made unimportable by the lab")
