"""What all commands have in common: flags, names, progress, readers that stop. It knows none of the rooms."""
