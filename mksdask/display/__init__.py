"""The look of objects in notebooks: cards with tables and pictures, and output that changes while a cell runs."""
