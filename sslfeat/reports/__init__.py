"""Visualization: contact sheets, plots, maps, galleries, and reports as single HTML files."""
