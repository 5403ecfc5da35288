"""Where pictures and captions come from, and the way to packed rows."""
