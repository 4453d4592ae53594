"""What people meet: the commands, files, pictures and pages."""
