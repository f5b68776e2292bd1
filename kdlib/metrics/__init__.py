"""AP, AR, PCK and CKA."""
