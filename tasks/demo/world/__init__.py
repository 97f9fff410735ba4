"""The demo's small world: what customers write, and how a support desk replies."""
