"""The command-line entry points of edgecompile, edgeprofile, edgeplan and edgesched."""
