"""Questions put to a kernel that was found: its noise, its boundary, its width, another kernel."""
