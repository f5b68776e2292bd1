"""What all commands share: flags, config files, wording, progress, whole files. It imports no other room."""
