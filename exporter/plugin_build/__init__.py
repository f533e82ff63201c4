"""The plugin library, compiled for this machine or for a device."""
