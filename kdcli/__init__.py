"""What all commands share: flags, config files, wording, progress, files, broken packages. Imports no other package."""
