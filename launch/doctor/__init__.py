"""`edgelaunch doctor`: checks what a rank needs before a run."""
