"""tripleweb's widgets: anywidget classes with their ES modules side by side."""

from __future__ import annotations
