"""How much a model thinks, and which of several answers it gives."""
