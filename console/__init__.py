"""What all commands have in common: flags, files of flags, progress, readers that stop. It knows none of the rooms."""
