"""The studies: every file here declares some in its `STUDIES`."""
